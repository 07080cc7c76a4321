//! Exceptions as values (SDM vol. 3, chapter 6).

/// Exception vectors (SDM vol. 3, table 6-1).
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// Page-fault error code bits (SDM vol. 3, figure 4-12).
pub mod pf {
    pub const P: u32 = 1 << 0;
    pub const W: u32 = 1 << 1;
    pub const U: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const I: u32 = 1 << 4;
}

/// A fault raised by an instruction: nothing of the instruction has been committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub vector: u8,
    pub error_code: Option<u32>,
    /// The linear address, for #PF (goes to CR2 at delivery).
    pub address: u64,
}

impl Fault {
    pub const fn new(vector: u8) -> Fault {
        Fault {
            vector,
            error_code: None,
            address: 0,
        }
    }

    pub const fn with_code(vector: u8, code: u32) -> Fault {
        Fault {
            vector,
            error_code: Some(code),
            address: 0,
        }
    }

    pub const fn page(address: u64, code: u32) -> Fault {
        Fault {
            vector: vector::PF,
            error_code: Some(code),
            address,
        }
    }

    /// No fault: an assist can't do the instruction (`translate::assist`).
    pub const NO_ASSIST: Fault = Fault::new(0xFF);
    /// #UD.
    pub const UD: Fault = Fault::new(vector::UD);
    /// #NM.
    pub const NM: Fault = Fault::new(vector::NM);
    /// #DE.
    pub const DE: Fault = Fault::new(vector::DE);
    /// #GP(0).
    pub const GP0: Fault = Fault::with_code(vector::GP, 0);
    /// #SS(0).
    pub const SS0: Fault = Fault::with_code(vector::SS, 0);

    /// #GP(selector), index and TI only.
    pub const fn gp(selector: u16) -> Fault {
        Fault::with_code(vector::GP, (selector & 0xFFFC) as u32)
    }
}
