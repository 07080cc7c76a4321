//! The host's own arithmetic: one guest instruction's operation, run as the same instruction.
//!
//! Results and flags are then those of the host bit for bit, undefined flags included, just as in
//! translated code.  Operands are in AL/AX/EAX/RAX (first), DL/DX/EDX/RDX (second) and CL; a
//! function takes the operand size in bytes and the guest's flags, and returns the whole of RAX
//! with the arithmetic flags.

use super::operand::{mask, sign_extend};
use crate::fault::Fault;
use crate::state::flags::{ARITHMETIC, FIXED};
use std::arch::asm;

/// A result (low bytes count) and the arithmetic flags.
pub type Flagged = (u64, u64);
/// An operation of two operands: size in bytes, operands, flags before.
pub type Binary = fn(usize, u64, u64, u64) -> Flagged;
/// An operation of one operand.
pub type Unary = fn(usize, u64, u64) -> Flagged;

/// Runs one instruction with RAX, RDX and RCX given; yields RAX, RDX and the arithmetic flags.
macro_rules! run {
    ($text:expr, $flags:expr, $a:expr, $d:expr, $c:expr) => {{
        let mut flags: u64 = $flags & ARITHMETIC | FIXED;
        let mut a: u64 = $a;
        let mut d: u64 = $d;
        let c: u64 = $c;
        // SAFETY: an instruction on registers only that can't fault; DF, TF and AC are clear in `flags`.
        unsafe {
            asm!("push {f}", "popfq", $text, "pushfq", "pop {f}",
                f = inout(reg) flags, inout("rax") a, inout("rdx") d, in("rcx") c);
        }
        (a, d, flags & ARITHMETIC)
    }};
}

/// Functions that run `operation first, second`.
macro_rules! binary {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        pub fn $name(size: usize, a: u64, b: u64, flags: u64) -> Flagged {
            let (a, _, flags) = match size {
                1 => run!(concat!($text, " al, dl"), flags, a, b, 0),
                2 => run!(concat!($text, " ax, dx"), flags, a, b, 0),
                4 => run!(concat!($text, " eax, edx"), flags, a, b, 0),
                _ => run!(concat!($text, " rax, rdx"), flags, a, b, 0),
            };
            (a, flags)
        }
    )+};
}

/// Functions that run `operation first, second` on 16 bits and more.
macro_rules! binary_from_16 {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        pub fn $name(size: usize, a: u64, b: u64, flags: u64) -> Flagged {
            let (a, _, flags) = match size {
                2 => run!(concat!($text, " ax, dx"), flags, a, b, 0),
                4 => run!(concat!($text, " eax, edx"), flags, a, b, 0),
                _ => run!(concat!($text, " rax, rdx"), flags, a, b, 0),
            };
            (a, flags)
        }
    )+};
}

/// Functions that run `operation result, first, second` on 32 or 64 bits.
macro_rules! three_operand {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        pub fn $name(size: usize, a: u64, b: u64, flags: u64) -> Flagged {
            let (a, _, flags) = match size {
                4 => run!(concat!($text, " eax, eax, edx"), flags, a, b, 0),
                _ => run!(concat!($text, " rax, rax, rdx"), flags, a, b, 0),
            };
            (a, flags)
        }
    )+};
}

macro_rules! unary {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        pub fn $name(size: usize, a: u64, flags: u64) -> Flagged {
            let (a, _, flags) = match size {
                1 => run!(concat!($text, " al"), flags, a, 0, 0),
                2 => run!(concat!($text, " ax"), flags, a, 0, 0),
                4 => run!(concat!($text, " eax"), flags, a, 0, 0),
                _ => run!(concat!($text, " rax"), flags, a, 0, 0),
            };
            (a, flags)
        }
    )+};
}

/// Functions that run `operation first, cl`.
macro_rules! shift {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        pub fn $name(size: usize, a: u64, count: u64, flags: u64) -> Flagged {
            let (a, _, flags) = match size {
                1 => run!(concat!($text, " al, cl"), flags, a, 0, count),
                2 => run!(concat!($text, " ax, cl"), flags, a, 0, count),
                4 => run!(concat!($text, " eax, cl"), flags, a, 0, count),
                _ => run!(concat!($text, " rax, cl"), flags, a, 0, count),
            };
            (a, flags)
        }
    )+};
}

/// Functions that run `operation first, second, cl`.
macro_rules! double_shift {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        pub fn $name(size: usize, a: u64, b: u64, count: u64, flags: u64) -> Flagged {
            let (a, _, flags) = match size {
                2 => run!(concat!($text, " ax, dx, cl"), flags, a, b, count),
                4 => run!(concat!($text, " eax, edx, cl"), flags, a, b, count),
                _ => run!(concat!($text, " rax, rdx, cl"), flags, a, b, count),
            };
            (a, flags)
        }
    )+};
}

/// Functions that run `operation cl/cx/ecx/rcx` on (R)DX:(R)AX or AX; they yield RAX, RDX and flags.
macro_rules! wide {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        fn $name(size: usize, low: u64, high: u64, by: u64, flags: u64) -> (u64, u64, u64) {
            match size {
                1 => run!(concat!($text, " cl"), flags, low, high, by),
                2 => run!(concat!($text, " cx"), flags, low, high, by),
                4 => run!(concat!($text, " ecx"), flags, low, high, by),
                _ => run!(concat!($text, " rcx"), flags, low, high, by),
            }
        }
    )+};
}

binary!(add "add", or "or", adc "adc", sbb "sbb", and "and", sub "sub", xor "xor");
unary!(inc "inc", dec "dec", neg "neg", not "not");
shift!(rol "rol", ror "ror", rcl "rcl", rcr "rcr", shl "shl", shr "shr", sar "sar");
double_shift!(shld "shld", shrd "shrd");
binary_from_16!(
    bt "bt", bts "bts", btr "btr", btc "btc", bsf "bsf", bsr "bsr", imul "imul",
    tzcnt "tzcnt", lzcnt "lzcnt", popcnt "popcnt",
);
three_operand!(
    andn "andn", bextr "bextr", bzhi "bzhi", pdep "pdep", pext "pext",
    sarx "sarx", shlx "shlx", shrx "shrx",
);
wide!(run_mul "mul", run_imul "imul", run_div "div", run_idiv "idiv");

/// Functions that run `operation result, source` on 32 or 64 bits.
macro_rules! two_operand {
    ($($name:ident $text:literal),+ $(,)?) => {$(
        pub fn $name(size: usize, a: u64, b: u64, flags: u64) -> Flagged {
            let (a, _, flags) = match size {
                4 => run!(concat!($text, " eax, edx"), flags, a, b, 0),
                _ => run!(concat!($text, " rax, rdx"), flags, a, b, 0),
            };
            (a, flags)
        }
    )+};
}

two_operand!(blsi "blsi", blsmsk "blsmsk", blsr "blsr", adcx "adcx", adox "adox");

/// MUL: RAX and RDX as the instruction leaves them (a byte product is all in AX).
pub fn mul(size: usize, a: u64, b: u64, flags: u64) -> (u64, u64, u64) {
    run_mul(size, a, 0, b, flags)
}

/// IMUL of one operand, as `mul`.
pub fn imul_wide(size: usize, a: u64, b: u64, flags: u64) -> (u64, u64, u64) {
    run_imul(size, a, 0, b, flags)
}

/// DIV of `high:low` (bytes: of AX in `low`): RAX and RDX as the instruction leaves them.
pub fn div(
    size: usize,
    low: u64,
    high: u64,
    by: u64,
    flags: u64,
) -> Result<(u64, u64, u64), Fault> {
    let bits = 8 * size as u32;
    let dividend = dividend(size, low, high);
    let by_value = (by & mask(size)) as u128;
    match dividend.checked_div(by_value) {
        Some(quotient) if quotient >> bits == 0 => Ok(run_div(size, low, high, by, flags)),
        _ => Err(Fault::DE),
    }
}

/// IDIV, as `div`.
pub fn idiv(
    size: usize,
    low: u64,
    high: u64,
    by: u64,
    flags: u64,
) -> Result<(u64, u64, u64), Fault> {
    let bits = 8 * size as u32;
    let unused = 128 - 2 * bits;
    let dividend = (dividend(size, low, high) << unused) as i128 >> unused;
    let by_value = sign_extend(by, size) as i64 as i128;
    match dividend.checked_div(by_value) {
        Some(quotient) if quotient << (128 - bits) >> (128 - bits) == quotient => {
            Ok(run_idiv(size, low, high, by, flags))
        }
        _ => Err(Fault::DE),
    }
}

fn dividend(size: usize, low: u64, high: u64) -> u128 {
    if size == 1 {
        return (low & 0xFFFF) as u128;
    }
    ((high & mask(size)) as u128) << (8 * size as u32) | (low & mask(size)) as u128
}

/// CRC32 of `size` bytes onto `a`.
pub fn crc32(size: usize, a: u64, b: u64) -> u64 {
    match size {
        1 => run!("crc32 eax, dl", 0, a, b, 0).0,
        2 => run!("crc32 eax, dx", 0, a, b, 0).0,
        4 => run!("crc32 eax, edx", 0, a, b, 0).0,
        _ => run!("crc32 rax, rdx", 0, a, b, 0).0,
    }
}

/// BSWAP; of 16 bits it is undefined, and what the host makes of it.
pub fn bswap(size: usize, a: u64) -> u64 {
    match size {
        // The assembler has no name for `bswap ax`.
        2 => run!(".byte 0x66, 0x0F, 0xC8", 0, a, 0, 0).0,
        4 => run!("bswap eax", 0, a, 0, 0).0,
        _ => run!("bswap rax", 0, a, 0, 0).0,
    }
}

pub fn rdrand(size: usize) -> Flagged {
    let (a, _, flags) = match size {
        2 => run!("rdrand ax", 0, 0, 0, 0),
        4 => run!("rdrand eax", 0, 0, 0, 0),
        _ => run!("rdrand rax", 0, 0, 0, 0),
    };
    (a, flags)
}

pub fn rdseed(size: usize) -> Flagged {
    let (a, _, flags) = match size {
        2 => run!("rdseed ax", 0, 0, 0, 0),
        4 => run!("rdseed eax", 0, 0, 0, 0),
        _ => run!("rdseed rax", 0, 0, 0, 0),
    };
    (a, flags)
}

/// LOCK CMPXCHG of `size` bytes at `p`: whether they were `old` and are now `new`.
///
/// # Safety
/// `size` (1, 2, 4 or 8) bytes at `p` are readable and writable.
pub unsafe fn compare_exchange(p: *mut u8, size: usize, old: u64, new: u64) -> bool {
    macro_rules! exchange {
        ($text:literal) => {{
            let equal: u8;
            // SAFETY: the caller's promise; any alignment is allowed.
            unsafe {
                asm!($text, "sete {e}", e = out(reg_byte) equal, p = in(reg) p,
                    in("rdx") new, inout("rax") old => _, options(nostack));
            }
            equal != 0
        }};
    }
    match size {
        1 => exchange!("lock cmpxchg [{p}], dl"),
        2 => exchange!("lock cmpxchg [{p}], dx"),
        4 => exchange!("lock cmpxchg [{p}], edx"),
        _ => exchange!("lock cmpxchg [{p}], rdx"),
    }
}

/// LOCK CMPXCHG16B: the 16 bytes found at `p`; replaced by `new` if they were `old`.
///
/// # Safety
/// 16 bytes at `p` are readable and writable, and `p` is a multiple of 16.
pub unsafe fn compare_exchange_16(p: *mut u8, old: u128, new: u128) -> u128 {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // RBX is the compiler's own.
    // SAFETY: the caller's promise; RBX is put back.
    unsafe {
        asm!("xchg rbx, {b}", "lock cmpxchg16b [{p}]", "mov rbx, {b}",
            b = inout(reg) new as u64 => _, p = in(reg) p, in("rcx") (new >> 64) as u64,
            inout("rax") low, inout("rdx") high, options(nostack));
    }
    (high as u128) << 64 | low as u128
}
