//! Which handler executes an instruction.

use super::{alu, bcd, bits, branch, data, fpu, muldiv, port, shift, stack, string, system};
use crate::fault::Fault;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

impl Vcpu {
    /// Executes a decoded instruction; `next_rip` is already that of the following one.
    pub(crate) fn execute(&mut self, insn: &Instruction) -> Result<(), Fault> {
        use Mnemonic::*;
        match insn.mnemonic() {
            Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg | Not | Xchg
            | Xadd | Cmpxchg | Cmpxchg8b | Cmpxchg16b => alu::execute(self, insn),
            Rol | Ror | Rcl | Rcr | Shl | Sal | Shr | Sar | Shld | Shrd => {
                shift::execute(self, insn)
            }
            Mul | Imul | Div | Idiv => muldiv::execute(self, insn),
            Daa | Das | Aaa | Aas | Aam | Aad | Salc => bcd::execute(self, insn),
            Bt | Bts | Btr | Btc | Bsf | Bsr | Tzcnt | Lzcnt | Popcnt | Bswap | Movbe | Crc32
            | Adcx | Adox => bits::execute(self, insn),
            Andn | Bextr | Blsi | Blsmsk | Blsr | Bzhi | Mulx | Pdep | Pext | Rorx | Sarx
            | Shlx | Shrx => bits::execute_vex(self, insn),
            Mov if !is_system_move(insn) => data::execute(self, insn),
            Movzx | Movsx | Movsxd | Movnti | Lea | Xlatb | Bound | Rdrand | Rdseed | Clflush
            | Clflushopt | Clwb | Mfence | Pause => data::execute(self, insn),
            Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg | Cmovge | Cmovl | Cmovle | Cmovne
            | Cmovno | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs => {
                data::conditional_move(self, insn)
            }
            Seta | Setae | Setb | Setbe | Sete | Setg | Setge | Setl | Setle | Setne | Setno
            | Setnp | Setns | Seto | Setp | Sets => data::set_by_condition(self, insn),
            Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo => data::convert(self, insn),
            Cmc | Clc | Stc | Cld | Std | Lahf | Sahf => data::flag_instruction(self, insn),
            Push | Pusha | Pushad | Popa | Popad | Pushf | Pushfd | Pushfq | Popf | Popfd
            | Popfq | Enter | Leave => stack::execute(self, insn),
            Pop if !is_segment(insn) => stack::execute(self, insn),
            Ja | Jae | Jb | Jbe | Je | Jg | Jge | Jl | Jle | Jne | Jno | Jnp | Jns | Jo | Jp
            | Js => branch::conditional(self, insn),
            Jmp | Call if !is_far(insn) => branch::execute(self, insn),
            Ret | Jcxz | Jecxz | Jrcxz | Loop | Loope | Loopne => branch::execute(self, insn),
            In | Out => port::execute(self, insn),
            Nop | Reservednop | Endbr32 | Endbr64 | Rdsspd | Rdsspq | Cldemote | Lfence
            | Sfence | Prefetch | Prefetchw | Prefetchwt1 | Prefetchnta | Prefetcht0
            | Prefetcht1 | Prefetcht2 | Prefetchit0 | Prefetchit1 => Ok(()),
            Ud0 | Ud1 | Ud2 => Err(Fault::UD),
            _ if insn.is_string_instruction() => string::execute(self, insn),
            _ => match system::execute(self, insn) {
                Some(result) => result,
                None => fpu::execute(self, insn),
            },
        }
    }

    /// The same for a MOV or POP of a segment, control or debug register.
    pub(crate) fn execute_system(&mut self, insn: &Instruction) -> Result<(), Fault> {
        system::execute(self, insn).unwrap_or(Err(Fault::UD))
    }
}

/// Whether the first operand is a segment register.
fn is_segment(insn: &Instruction) -> bool {
    insn.op_kind(0) == OpKind::Register && insn.op_register(0).is_segment_register()
}

/// MOV to a segment register, and to or from control, debug and test registers.
fn is_system_move(insn: &Instruction) -> bool {
    let special = |r: Register| r.is_cr() || r.is_dr() || r.is_tr();
    is_segment(insn) || special(insn.op0_register()) || special(insn.op1_register())
}

fn is_far(insn: &Instruction) -> bool {
    insn.is_jmp_far()
        || insn.is_jmp_far_indirect()
        || insn.is_call_far()
        || insn.is_call_far_indirect()
}
