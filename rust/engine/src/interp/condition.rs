//! Condition codes (SDM vol. 1, appendix B).

use crate::state::flags::{CF, OF, PF, SF, ZF};
use crate::vcpu::Vcpu;
use iced_x86::ConditionCode;

impl Vcpu {
    /// Whether the flags meet the condition of a Jcc, SETcc or CMOVcc.
    pub(super) fn condition(&self, code: ConditionCode) -> bool {
        let set = |bits: u64| self.cpu.rflags & bits != 0;
        let less = set(SF) != set(OF);
        match code {
            ConditionCode::o => set(OF),
            ConditionCode::no => !set(OF),
            ConditionCode::b => set(CF),
            ConditionCode::ae => !set(CF),
            ConditionCode::e => set(ZF),
            ConditionCode::ne => !set(ZF),
            ConditionCode::be => set(CF | ZF),
            ConditionCode::a => !set(CF | ZF),
            ConditionCode::s => set(SF),
            ConditionCode::ns => !set(SF),
            ConditionCode::p => set(PF),
            ConditionCode::np => !set(PF),
            ConditionCode::l => less,
            ConditionCode::ge => !less,
            ConditionCode::le => less || set(ZF),
            ConditionCode::g => !less && !set(ZF),
            ConditionCode::None => true,
        }
    }
}
