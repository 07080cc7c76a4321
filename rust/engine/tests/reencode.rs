//! The copier's encodings: what comes out decodes to the guest's instruction with its registers
//! renamed and its memory operand replaced, for every opcode and for random bytes.

mod corpus;

use corpus::{Guest, Random, decode, generate};
use engine::translate::emit::*;
use engine::translate::reencode::*;
use iced_x86::{Code, CodeSize, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

const BASE: u64 = 0x7000_0000_0000;
const HOME: i32 = 0x180;

const PLACES: [Mem; 4] = [
    Mem::base(R9),
    Mem::base(R9).index(R10, 1),
    Mem::base(R8).index(R11, 1).disp(-0x40),
    Mem::base(R9).seg(Seg::Gs).addr32(),
];

fn bits(insn: &Instruction) -> u32 {
    match insn.code_size() {
        CodeSize::Code16 => 16,
        CodeSize::Code32 => 32,
        _ => 64,
    }
}

/// The copy's instructions.
fn copied(guest: &Guest, plan: &Plan) -> Result<Vec<Instruction>, Unencodable> {
    let mut asm = Asm::new(256);
    asm.start(BASE);
    copy(&guest.insn, &guest.bytes, plan, &mut asm)?;
    let code = asm.finish().expect("fits").to_vec();
    let mut decoder = Decoder::with_ip(64, &code, BASE, DecoderOptions::NONE);
    Ok((&mut decoder).into_iter().collect())
}

/// Whether any operand needs more than a new name.
fn has_detour(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|i| {
        let reg = insn.op_register(i);
        let high = reg.is_gpr8() && (Register::AH..=Register::BH).contains(&reg);
        let homed =
            reg.is_gpr() && (8..12).contains(&(reg.full_register() as u32 - Register::RAX as u32));
        insn.op_kind(i) == OpKind::Register && (high || homed)
    })
}

fn renamed(reg: Register) -> Register {
    match reg {
        Register::SPL => Register::R8L,
        Register::SP => Register::R8W,
        Register::ESP => Register::R8D,
        Register::RSP => Register::R8,
        _ => reg,
    }
}

fn same_place(host: &Instruction, mem: &Mem) -> bool {
    let first = if mem.addr32 {
        Register::EAX
    } else {
        Register::RAX
    };
    let name = |reg: Option<Gpr>| reg.map_or(Register::None, |r| first + r.0 as u32);
    host.memory_base() == name(mem.base)
        && host.memory_index() == name(mem.index.map(|(reg, _)| reg))
        && host.memory_displacement64() as i32 == mem.disp
        && (host.segment_prefix() == Register::GS) == mem.seg.is_some()
}

/// Whether `host` does on its operands what `guest` does on its own.
fn corresponds(guest: &Instruction, host: &Instruction, mem: &Mem) -> bool {
    let operands = (0..guest.op_count()).all(|i| match guest.op_kind(i) {
        OpKind::Register => host.op_register(i) == renamed(guest.op_register(i)),
        OpKind::Memory => host.op_kind(i) == OpKind::Memory && same_place(host, mem),
        _ => host.try_immediate(i).ok() == guest.try_immediate(i).ok(),
    });
    operands
        && host.mnemonic() == guest.mnemonic()
        && host.op_count() == guest.op_count()
        && (memory_operand(guest).is_none() || host.memory_size() == guest.memory_size())
        && host.op_mask() == guest.op_mask()
        && host.zeroing_masking() == guest.zeroing_masking()
        && host.rounding_control() == guest.rounding_control()
        && host.suppress_all_exceptions() == guest.suppress_all_exceptions()
        && host.has_lock_prefix() == guest.has_lock_prefix()
}

/// Checks one copyable instruction against every kind of memory operand.
fn check(guest: &Guest) {
    let Guest { insn, bytes } = guest;
    for mem in PLACES {
        // A bit offset in the same register as the operand's name keeps `corresponds` simple.
        let bit_offset = (classify(insn) == Class::BitString).then(|| {
            let reg = renamed(insn.op1_register().full_register());
            Gpr((reg as u32 - Register::RAX as u32) as u8)
        });
        let plan = Plan {
            bit_offset,
            ..Plan::new(HOME).mem(mem)
        };
        let host = copied(guest, &plan);
        let Ok([host]) = host.as_deref() else {
            panic!("{bytes:02x?} {insn} ({} bits): {host:?}", bits(insn));
        };
        assert!(
            corresponds(insn, host, &mem),
            "{bytes:02x?} {insn} ({} bits) became {host}",
            bits(insn)
        );
    }
}

fn copyable(insn: &Instruction) -> bool {
    matches!(classify(insn), Class::Copyable | Class::BitString)
}

#[test]
fn every_copyable_opcode_keeps_its_meaning() {
    let mut random = Random(0x1999);
    let mut checked = 0;
    for code in Code::values() {
        for bits in [16, 32, 64] {
            for _ in 0..12 {
                let guest = generate(code, bits, None, &mut random);
                let Some(guest) = guest.filter(|g| copyable(&g.insn) && !has_detour(&g.insn))
                else {
                    continue;
                };
                check(&guest);
                checked += 1;
            }
        }
    }
    assert!(checked > 60_000, "{checked}");
}

#[test]
fn random_bytes_keep_their_meaning() {
    let mut random = Random(0x0210);
    let mut checked = 0;
    for _ in 0..600_000 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.next().to_le_bytes());
        bytes[8..].copy_from_slice(&random.next().to_le_bytes());
        // Prefixes and escapes are rare among random bytes.
        for byte in bytes.iter_mut().take(random.below(4) as usize) {
            let choice = random.below(18) as usize;
            *byte = [
                0x66, 0x67, 0xF2, 0xF3, 0x2E, 0x65, 0x48, 0x45, 0x40, 0x4F, 0x0F, 0x0F, 0xC5, 0xC4,
                0x62, 0xC4, 0x62, 0x8F,
            ][choice];
        }
        let bits = [16, 32, 64][random.below(3) as usize];
        let guest = decode(&bytes, bits);
        let Some(guest) = guest.filter(|g| copyable(&g.insn) && !has_detour(&g.insn)) else {
            continue;
        };
        check(&guest);
        checked += 1;
    }
    assert!(checked > 100_000, "{checked}");
}

#[test]
fn truncated_bytes_are_refused() {
    let guest = decode(&[0x81, 0x84, 0x24, 0x00, 0x10, 0, 0, 1, 2, 3, 4], 64).expect("valid");
    let mut asm = Asm::new(256);
    let plan = Plan::new(HOME).mem(PLACES[0]);
    for len in 0..7 {
        let bytes = &guest.bytes[..len];
        let answer = copy(&guest.insn, bytes, &plan, &mut asm);
        assert_eq!(answer, Err(Unencodable::Malformed), "{len}");
    }
}

fn class(bytes: &[u8], bits: u32) -> Class {
    classify(&decode(bytes, bits).expect("valid").insn)
}

#[test]
fn what_has_more_effects_is_not_copyable() {
    let cases: [(&[u8], u32); 24] = [
        (&[0x50], 64),                               // push rax
        (&[0xC3], 64),                               // ret
        (&[0xEB, 0x00], 64),                         // jmp
        (&[0xA4], 64),                               // movsb
        (&[0x6C], 64),                               // insb
        (&[0xD7], 64),                               // xlat
        (&[0x8D, 0x00], 64),                         // lea
        (&[0x8E, 0xD8], 64),                         // mov ds,eax
        (&[0x8C, 0xD8], 64),                         // mov eax,ds
        (&[0x0F, 0x20, 0xC0], 64),                   // mov rax,cr0
        (&[0x0F, 0xA2], 64),                         // cpuid
        (&[0x0F, 0x31], 64),                         // rdtsc
        (&[0x0F, 0x01, 0xF9], 64),                   // rdtscp
        (&[0xF3, 0x0F, 0xC7, 0xF8], 64),             // rdpid
        (&[0x0F, 0xAE, 0x00], 64),                   // fxsave
        (&[0xD9, 0x30], 64),                         // fnstenv
        (&[0x66, 0x0F, 0xF7, 0xC1], 64),             // maskmovdqu
        (&[0xC4, 0xE2, 0x69, 0x92, 0x0C, 0x18], 64), // vgatherdps
        (&[0xF4], 64),                               // hlt
        (&[0xFA], 64),                               // cli
        (&[0xFC], 64),                               // cld
        (&[0x9C], 64),                               // pushfq
        (&[0x37], 32),                               // aaa
        (&[0xC5, 0x00], 32),                         // lds
    ];
    for (bytes, bits) in cases {
        assert_eq!(class(bytes, bits), Class::NotCopyable, "{bytes:02x?}");
    }
}

#[test]
fn hints_have_no_effect() {
    for bytes in [
        &[0x90][..],
        &[0x0F, 0x1F, 0x00],
        &[0x0F, 0x18, 0x08],
        &[0xF3, 0x0F, 0x1E, 0xFA],
    ] {
        assert_eq!(class(bytes, 64), Class::NoEffect, "{bytes:02x?}");
    }
}

#[test]
fn register_bit_offsets_on_memory_are_bit_strings() {
    assert_eq!(class(&[0x0F, 0xAB, 0x08], 64), Class::BitString); // bts [rax],ecx
    assert_eq!(class(&[0x0F, 0xAB, 0xC8], 64), Class::Copyable); // bts eax,ecx
    assert_eq!(class(&[0x0F, 0xBA, 0x28, 3], 64), Class::Copyable); // bts [rax],3
    let guest = decode(&[0x0F, 0xAB, 0x08], 64).expect("valid");
    let answer = copied(&guest, &Plan::new(HOME).mem(PLACES[0]));
    assert_eq!(answer, Err(Unencodable::PlanIncomplete));
}

fn operand(bytes: &[u8]) -> Option<MemoryOperand> {
    memory_operand(&decode(bytes, 64).expect("valid").insn)
}

#[test]
fn memory_operands_have_size_access_and_masking() {
    use Access::{Read, ReadWrite, Write};
    let plain = |size, access| {
        Some(MemoryOperand {
            size,
            access,
            masked: false,
        })
    };
    let masked = |size, access| {
        Some(MemoryOperand {
            size,
            access,
            masked: true,
        })
    };
    assert_eq!(operand(&[0x01, 0x08]), plain(4, ReadWrite)); // add [rax],ecx
    assert_eq!(operand(&[0x48, 0x39, 0x08]), plain(8, Read)); // cmp [rax],rcx
    assert_eq!(operand(&[0x88, 0x08]), plain(1, Write)); // mov [rax],cl
    assert_eq!(operand(&[0x89, 0xC8]), None); // mov eax,ecx
    assert_eq!(operand(&[0xDB, 0x28]), plain(10, Read)); // fld tbyte [rax]
    assert_eq!(operand(&[0xDB, 0x38]), plain(10, Write)); // fstp tbyte [rax]
    assert_eq!(operand(&[0x0F, 0x44, 0x08]), plain(4, Read)); // cmove ecx,[rax]
    assert_eq!(operand(&[0x0F, 0xB1, 0x08]), plain(4, ReadWrite)); // cmpxchg [rax],ecx
    assert_eq!(operand(&[0x48, 0x0F, 0xC7, 0x08]), plain(16, ReadWrite)); // cmpxchg16b [rax]
    assert_eq!(operand(&[0xC4, 0xE2, 0x71, 0x2E, 0x10]), masked(16, Write)); // vmaskmovps
    assert_eq!(operand(&[0xC4, 0xE2, 0x75, 0x2C, 0x10]), masked(32, Read));
    assert_eq!(
        operand(&[0x62, 0xF1, 0x7C, 0x48, 0x10, 0x00]),
        plain(64, Read)
    ); // vmovups
    assert_eq!(
        operand(&[0x62, 0xF1, 0x7C, 0x49, 0x10, 0x00]),
        masked(64, Read)
    ); // {k1}
    assert_eq!(
        operand(&[0x62, 0xF1, 0x74, 0x58, 0x58, 0x00]),
        plain(4, Read)
    ); // {1to16}
}

#[test]
fn units_follow_the_state_used() {
    let unit_of = |bytes: &[u8]| unit(&decode(bytes, 64).expect("valid").insn);
    assert_eq!(unit_of(&[0x01, 0xC8]), Unit::Integer);
    assert_eq!(unit_of(&[0xC4, 0xE2, 0x70, 0xF2, 0xC2]), Unit::Integer); // andn
    assert_eq!(unit_of(&[0xD9, 0xE8]), Unit::X87); // fld1
    assert_eq!(unit_of(&[0x9B]), Unit::X87); // fwait
    assert_eq!(unit_of(&[0x0F, 0xFC, 0xC1]), Unit::Mmx); // paddb mm0,mm1
    assert_eq!(unit_of(&[0x0F, 0x58, 0xC1]), Unit::Sse); // addps
    assert_eq!(unit_of(&[0xC5, 0xF8, 0x77]), Unit::Avx); // vzeroupper
    assert_eq!(unit_of(&[0xC5, 0xFC, 0x50, 0xC1]), Unit::Avx); // vmovmskps eax,ymm1
    assert_eq!(unit_of(&[0xC5, 0xF8, 0x92, 0xC8]), Unit::Avx512); // kmovw k1,eax
}

/// The copy, as text.
fn text(bytes: &[u8], bits: u32, plan: &Plan) -> String {
    let guest = decode(bytes, bits).expect("valid");
    let host = copied(&guest, plan).expect("copyable");
    let lines: Vec<String> = host.iter().map(Instruction::to_string).collect();
    lines.join("; ")
}

#[test]
fn homed_register_is_read_in_place() {
    // add rax,r9
    let host = text(&[0x4C, 0x01, 0xC8], 64, &Plan::new(HOME));
    assert_eq!(host, "mov r9,[rsp+188h]; add rax,r9");
    let host = text(&[0x49, 0x03, 0xC1], 64, &Plan::new(HOME));
    assert_eq!(host, "add rax,[rsp+188h]");
}

#[test]
fn homed_register_is_written_whole() {
    let plan = Plan::new(HOME);
    // mov r8,rax
    assert_eq!(text(&[0x49, 0x89, 0xC0], 64, &plan), "mov [rsp+180h],rax");
    // mov r8d,eax
    let host = text(&[0x41, 0x89, 0xC0], 64, &plan);
    assert_eq!(host, "mov r9d,eax; mov [rsp+180h],r9");
    // add r8b,al
    let host = text(&[0x41, 0x00, 0xC0], 64, &plan);
    assert_eq!(host, "mov r9,[rsp+180h]; add r9b,al; mov [rsp+180h],r9");
    // xor r8d,r8d
    let host = text(&[0x45, 0x31, 0xC0], 64, &plan);
    assert_eq!(host, "mov r9,[rsp+180h]; xor r9d,r9d; mov [rsp+180h],r9");
}

#[test]
fn homed_register_as_bit_string_goes_through_a_scratch() {
    // bts r8,rax
    let host = text(&[0x49, 0x0F, 0xAB, 0xC0], 64, &Plan::new(HOME));
    assert_eq!(host, "mov r9,[rsp+180h]; bts r9,rax; mov [rsp+180h],r9");
}

#[test]
fn address_is_folded_when_scratch_runs_out() {
    // mulx r8,r9,[rax]
    let plan = Plan::new(HOME).mem(Mem::base(R9).index(R10, 1));
    let host = text(&[0xC4, 0x62, 0xB3, 0xF6, 0x00], 64, &plan);
    assert_eq!(
        host,
        "lea r9,[r9+r10]; mulx r10,r11,[r9]; mov [rsp+180h],r10; mov [rsp+188h],r11"
    );
    let full = Plan {
        keep: 0xE00,
        ..plan
    };
    let guest = decode(&[0xC4, 0x62, 0xB3, 0xF6, 0x00], 64).expect("valid");
    assert_eq!(copied(&guest, &full), Err(Unencodable::NoScratch));
}

#[test]
fn high_byte_is_rotated_only_beside_rex() {
    let low = Plan::new(HOME).mem(Mem::base(RSP).disp(8));
    assert_eq!(text(&[0x00, 0x23], 32, &low), "add [rsp+8],ah");
    assert_eq!(text(&[0x00, 0xE7], 32, &low), "add bh,ah");
    let high = Plan::new(HOME).mem(Mem::base(R9));
    let host = text(&[0x00, 0x23], 32, &high);
    assert_eq!(host, "rorx r10,rax,8; add [r9],r10b");
    let host = text(&[0x02, 0x3B], 32, &high);
    assert_eq!(
        host,
        "rorx r10,rbx,8; add r10b,[r9]; rorx rbx,rbx,8; mov bl,r10b; rorx rbx,rbx,38h"
    );
    // movzx esp,ch
    let host = text(&[0x0F, 0xB6, 0xE5], 32, &high);
    assert_eq!(host, "rorx r9,rcx,8; movzx r8d,r9b");
}

#[test]
fn encodings_gone_from_long_mode_have_replacements() {
    let plan = Plan::new(HOME).mem(Mem::base(R9));
    assert_eq!(text(&[0x44], 32, &plan), "inc r8d");
    assert_eq!(text(&[0x4B], 16, &plan), "dec bx");
    assert_eq!(text(&[0xA1, 0, 0, 1, 0], 32, &plan), "mov eax,[r9]");
    assert_eq!(text(&[0xA2, 0, 1], 16, &plan), "mov [r9],al");
    assert_eq!(text(&[0x82, 0xC0, 5], 32, &plan), "add al,5");
    assert_eq!(text(&[0x94], 32, &plan), "xchg r8d,eax");
}

#[test]
fn mnemonics_without_memory_need_no_plan() {
    assert_eq!(text(&[0x99], 16, &Plan::new(HOME)), "cwd");
    let guest = decode(&[0x01, 0x08], 32).expect("valid");
    assert_eq!(guest.insn.mnemonic(), Mnemonic::Add);
    assert_eq!(
        copied(&guest, &Plan::new(HOME)),
        Err(Unencodable::PlanIncomplete)
    );
}
