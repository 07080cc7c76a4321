//! Integer instructions, one behaviour a test.

use super::test_support::*;
use crate::fault::{Fault, vector};
use crate::state::{Segment, attr, flags, gpr, seg};

fn long_fault(code: &[u8], prepare: impl FnOnce(&mut Machine)) -> (Machine, Fault) {
    let mut m = Machine::long(code);
    prepare(&mut m);
    let fault = m.run(code.len()).unwrap_err();
    (m, fault)
}

#[test]
fn narrow_results_merge_and_32_bit_results_zero_extend() {
    // add al, cl; add dx, dx; add ebx, ebx
    let m = long(&[0x00, 0xC8, 0x66, 0x01, 0xD2, 0x01, 0xDB], |m| {
        m.v.cpu.gpr = [u64::MAX; 16];
    });
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0xFFFF_FFFF_FFFF_FFFE);
    assert_eq!(m.v.cpu.gpr[gpr::RDX], 0xFFFF_FFFF_FFFF_FFFE);
    assert_eq!(m.v.cpu.gpr[gpr::RBX], 0xFFFF_FFFE);
}

#[test]
fn a_fault_in_a_read_modify_write_commits_nothing() {
    // add [rbx], eax
    let (m, fault) = long_fault(&[0x01, 0x03], |m| m.v.cpu.gpr[gpr::RBX] = ABSENT);
    assert_eq!(fault, Fault::page(ABSENT, 2));
    assert_eq!(m.arithmetic_flags(), 0);
    assert_eq!(m.v.cpu.rip, CODE);
}

#[test]
fn lock_on_a_register_is_an_undefined_opcode() {
    // lock add eax, ebx
    assert_eq!(long_fault(&[0xF0, 0x01, 0xD8], |_| {}).1, Fault::UD);
}

#[test]
fn locked_add_changes_memory() {
    // lock add dword [rbx], 5
    let m = long(&[0xF0, 0x83, 0x03, 0x05], |m| {
        m.v.cpu.gpr[gpr::RBX] = DATA + 1;
        m.store(DATA + 1, &[0xFF, 0, 0, 0]);
    });
    assert_eq!(m.bytes(DATA + 1), [4, 1, 0, 0]);
}

#[test]
fn xadd_of_a_register_with_itself_leaves_the_sum() {
    // xadd eax, eax
    let m = long(&[0x0F, 0xC1, 0xC0], |m| m.v.cpu.gpr[gpr::RAX] = 21);
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 42);
}

#[test]
fn cmpxchg_loads_the_accumulator_when_different() {
    // lock cmpxchg [rbx], ecx
    let m = long(&[0xF0, 0x0F, 0xB1, 0x0B], |m| {
        m.v.cpu.gpr[gpr::RBX] = DATA;
        m.v.cpu.gpr[gpr::RCX] = 7;
        m.store(DATA, &[9, 0, 0, 0]);
    });
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 9);
    assert_eq!(m.bytes(DATA), [9, 0, 0, 0]);
    assert_eq!(m.v.cpu.rflags & flags::ZF, 0);
}

#[test]
fn cmpxchg_leaves_a_different_register_whole() {
    // cmpxchg ecx, ebx
    let m = long(&[0x0F, 0xB1, 0xD9], |m| m.v.cpu.gpr[gpr::RCX] = 1 << 40 | 7);
    assert_eq!(m.v.cpu.gpr[gpr::RCX], 1 << 40 | 7);
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 7);
}

#[test]
fn cmpxchg16b_exchanges_when_equal_and_wants_alignment() {
    // lock cmpxchg16b [rsi]
    const CODE: &[u8] = &[0xF0, 0x48, 0x0F, 0xC7, 0x0E];
    let m = long(CODE, |m| {
        m.v.cpu.gpr[gpr::RSI] = DATA;
        m.v.cpu.gpr[gpr::RBX] = 5;
        m.v.cpu.gpr[gpr::RCX] = 6;
    });
    assert_eq!(m.bytes::<16>(DATA)[..9], [5, 0, 0, 0, 0, 0, 0, 0, 6]);
    assert_ne!(m.v.cpu.rflags & flags::ZF, 0);
    let (_, fault) = long_fault(CODE, |m| m.v.cpu.gpr[gpr::RSI] = DATA + 8);
    assert_eq!(fault, Fault::GP0);
}

#[test]
fn shift_by_zero_leaves_flags() {
    // shl al, cl
    let m = long(&[0xD2, 0xE0], |m| {
        m.v.cpu.gpr[gpr::RCX] = 32;
        m.v.cpu.rflags |= flags::CF | flags::OF;
    });
    assert_eq!(m.arithmetic_flags(), flags::CF | flags::OF);
}

#[test]
fn rcl_rotates_through_carry() {
    // rcl al, 1
    let m = long(&[0xD0, 0xD0], |m| {
        m.v.cpu.gpr[gpr::RAX] = 0x80;
        m.v.cpu.rflags |= flags::CF;
    });
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 1);
    assert_ne!(m.v.cpu.rflags & flags::CF, 0);
}

#[test]
fn division_by_zero_and_overflow_are_divide_errors() {
    // div ecx
    let (_, fault) = long_fault(&[0xF7, 0xF1], |_| {});
    assert_eq!(fault, Fault::DE);
    // idiv rcx of the least dividend by -1
    let (_, fault) = long_fault(&[0x48, 0xF7, 0xF9], |m| {
        m.v.cpu.gpr[gpr::RDX] = 1 << 63;
        m.v.cpu.gpr[gpr::RCX] = u64::MAX;
    });
    assert_eq!(fault, Fault::DE);
}

#[test]
fn idiv_of_bytes_leaves_quotient_and_remainder_in_ax() {
    // idiv cl
    let m = long(&[0xF6, 0xF9], |m| {
        m.v.cpu.gpr[gpr::RAX] = -7i64 as u64;
        m.v.cpu.gpr[gpr::RCX] = 2;
    });
    assert_eq!(m.v.cpu.gpr[gpr::RAX] & 0xFFFF, 0xFFFD);
}

#[test]
fn bit_strings_reach_below_their_base() {
    // bts [rbx], eax
    let m = long(&[0x0F, 0xAB, 0x03], |m| {
        m.v.cpu.gpr[gpr::RBX] = DATA + 8;
        m.v.cpu.gpr[gpr::RAX] = -33i64 as u64;
    });
    assert_eq!(m.bytes(DATA), [0, 0, 0, 0x80, 0, 0, 0, 0]);
}

#[test]
fn bit_test_leaves_its_register_whole() {
    // bt eax, ecx
    let m = long(&[0x0F, 0xA3, 0xC8], |m| m.v.cpu.gpr[gpr::RAX] = u64::MAX);
    assert_eq!(m.v.cpu.gpr[gpr::RAX], u64::MAX);
    assert_eq!(m.arithmetic_flags() & flags::CF, flags::CF);
}

#[test]
fn vex_instructions_do_not_exist_in_v86_mode() {
    // blsr eax, ecx
    let mut m = Machine::protected(&[0xC4, 0xE2, 0x78, 0xF3, 0xC9]);
    m.v.cpu.rflags |= flags::VM;
    assert_eq!(m.step(), Err(Fault::UD));
}

#[test]
fn push_sp_pushes_the_old_value_and_pop_sp_takes_the_popped_one() {
    // push rsp; pop rsp
    let mut m = Machine::long(&[0x54, 0x5C]);
    m.step().unwrap();
    assert_eq!(m.bytes(STACK - 8), STACK.to_le_bytes());
    m.step().unwrap();
    assert_eq!(m.v.cpu.gpr[gpr::RSP], STACK);
}

#[test]
fn pop_to_memory_addresses_with_the_incremented_stack_pointer() {
    // pop qword [rsp]
    let m = long(&[0x8F, 0x04, 0x24], |m| m.store(STACK, &[1, 2, 3, 4]));
    assert_eq!(m.bytes(STACK + 8), [1, 2, 3, 4]);
}

#[test]
fn pop_that_faults_on_its_destination_keeps_the_stack_pointer() {
    // pop qword [rbx]
    let (m, fault) = long_fault(&[0x8F, 0x03], |m| m.v.cpu.gpr[gpr::RBX] = ABSENT);
    assert_eq!(fault, Fault::page(ABSENT, 2));
    assert_eq!(m.v.cpu.gpr[gpr::RSP], STACK);
}

#[test]
fn real_mode_stack_wraps_at_64_kib() {
    // push ax
    let m = real(&[0x50], |m| m.v.cpu.gpr[gpr::RSP] = 0);
    assert_eq!(m.v.cpu.gpr[gpr::RSP], 0xFFFE);
}

#[test]
fn pusha_and_popa_skip_the_stack_pointer() {
    // pusha; popa
    let m = real(&[0x60, 0x61], |m| {
        for i in 0..8 {
            if i != gpr::RSP {
                m.v.cpu.gpr[i] = i as u64;
            }
        }
    });
    assert_eq!(m.bytes(STACK - 10), (STACK as u16).to_le_bytes());
    assert_eq!(m.v.cpu.gpr[..8], [0, 1, 2, 3, STACK, 5, 6, 7]);
}

#[test]
fn popf_below_iopl_changes_neither_iopl_nor_if() {
    // popf
    let mut m = Machine::protected(&[0x9D]);
    m.v.cpu.cpl = 3;
    m.store(STACK, &(flags::IF | flags::IOPL | flags::CF).to_le_bytes());
    m.step().unwrap();
    assert_eq!(m.v.cpu.rflags, flags::FIXED | flags::CF);
}

#[test]
fn pushf_in_v86_mode_without_iopl_3_faults() {
    let mut m = Machine::protected(&[0x9C]);
    m.v.cpu.rflags |= flags::VM;
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn enter_copies_frame_pointers_of_outer_levels() {
    // enter 16, 2
    let m = long(&[0xC8, 0x10, 0, 2], |m| {
        m.v.cpu.gpr[gpr::RBP] = DATA + 8;
        m.store(DATA, &[0x77]);
    });
    let frame = STACK - 8;
    assert_eq!(m.v.cpu.gpr[gpr::RBP], frame);
    assert_eq!(m.v.cpu.gpr[gpr::RSP], frame - 16 - 16);
    assert_eq!(m.bytes(frame - 8), [0x77, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(m.bytes(frame - 16), frame.to_le_bytes());
}

#[test]
fn enter_with_16_bit_operands_keeps_the_upper_half_of_ebp() {
    // enterw 0, 0
    let mut m = Machine::protected(&[0x66, 0xC8, 0, 0, 0]);
    m.v.cpu.gpr[gpr::RBP] = 0xAAAA_1234;
    m.step().unwrap();
    assert_eq!(m.v.cpu.gpr[gpr::RBP], 0xAAAA_0000 | (STACK - 2));
}

#[test]
fn leave_undoes_enter() {
    // enter 16, 0; leave
    let m = long(&[0xC8, 0x10, 0, 0, 0xC9], |m| m.v.cpu.gpr[gpr::RBP] = 5);
    assert_eq!((m.v.cpu.gpr[gpr::RBP], m.v.cpu.gpr[gpr::RSP]), (5, STACK));
}

#[test]
fn jumps_past_the_code_limit_fault_at_the_jump() {
    // jmp short +0x10
    let mut m = Machine::real(&[0xEB, 0x10]);
    m.v.cpu.seg[seg::CS].limit = CODE as u32 + 8;
    assert_eq!(m.step(), Err(Fault::GP0));
    assert_eq!(m.v.cpu.rip, CODE);
}

#[test]
fn jumps_to_non_canonical_addresses_fault() {
    // jmp rax
    let (_, fault) = long_fault(&[0xFF, 0xE0], |m| m.v.cpu.gpr[gpr::RAX] = 1 << 47);
    assert_eq!(fault, Fault::GP0);
}

#[test]
fn call_pushes_the_return_address_and_ret_releases_parameters() {
    // call +1; (hlt); ret 8
    let mut m = Machine::long(&[0xE8, 1, 0, 0, 0, 0xF4, 0xC2, 8, 0]);
    m.step().unwrap();
    assert_eq!(m.bytes(STACK - 8), (CODE + 5).to_le_bytes());
    m.step().unwrap();
    assert_eq!(m.v.cpu.rip, CODE + 5);
    assert_eq!(m.v.cpu.gpr[gpr::RSP], STACK + 8);
}

#[test]
fn loop_counts_by_address_size() {
    // addr32 loop -3, in 16-bit code
    let mut m = Machine::real(&[0x67, 0xE2, 0xFD]);
    m.v.cpu.gpr[gpr::RCX] = 0x1_0000;
    m.step().unwrap();
    assert_eq!((m.v.cpu.rip, m.v.cpu.gpr[gpr::RCX]), (CODE, 0xFFFF));
}

#[test]
fn cmov_zero_extends_even_if_nothing_moves() {
    // cmovz eax, ebx
    let m = long(&[0x0F, 0x44, 0xC3], |m| m.v.cpu.gpr[gpr::RAX] = u64::MAX);
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0xFFFF_FFFF);
}

#[test]
fn xlat_indexes_by_al() {
    let m = long(&[0xD7], |m| {
        m.v.cpu.gpr[gpr::RBX] = DATA;
        m.v.cpu.gpr[gpr::RAX] = 0x1_FF;
        m.store(DATA + 0xFF, &[0x42]);
    });
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0x142);
}

#[test]
fn bound_faults_outside_signed_bounds() {
    // bound eax, [ebx]
    let mut m = Machine::protected(&[0x62, 0x03]);
    m.v.cpu.gpr[gpr::RBX] = DATA;
    m.store(DATA, &[0xFF, 0xFF, 0xFF, 0xFF, 4, 0, 0, 0]);
    m.step().unwrap();
    m.v.cpu.rip = CODE;
    m.v.cpu.gpr[gpr::RAX] = 5;
    assert_eq!(m.step(), Err(Fault::new(vector::BR)));
}

#[test]
fn reserved_nops_do_nothing() {
    // nop [eax]; endbr64; prefetcht0 [0]; 0F 19; pause
    let code = [
        0x0F, 0x1F, 0x00, 0xF3, 0x0F, 0x1E, 0xFA, 0x0F, 0x18, 0x08, 0x0F, 0x19, 0xC0, 0xF3, 0x90,
    ];
    let m = long(&code, |_| {});
    assert_eq!(m.v.cpu.rip, CODE + code.len() as u64);
}

#[test]
fn adjustments_keep_decimal_digits() {
    // add al, cl; daa
    let mut m = Machine::protected(&[0x00, 0xC8, 0x27]);
    m.v.cpu.gpr[gpr::RAX] = 0x79;
    m.v.cpu.gpr[gpr::RCX] = 0x35;
    m.run(3).unwrap();
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0x14);
    assert_ne!(m.v.cpu.rflags & flags::CF, 0);
}

#[test]
fn aam_by_zero_is_a_divide_error() {
    assert_eq!(Machine::protected(&[0xD4, 0]).step(), Err(Fault::DE));
}

#[test]
fn repeated_move_copies_over_page_borders() {
    let m = long(&[0xF3, 0xA4], |m| {
        m.v.cpu.gpr[gpr::RSI] = DATA + 0xF80;
        m.v.cpu.gpr[gpr::RDI] = DATA + 0x2F00;
        m.v.cpu.gpr[gpr::RCX] = 0x100;
        m.store(DATA + 0xF80, &[0x5A; 0x100]);
    });
    assert_eq!(m.bytes(DATA + 0x2F00), [0x5A; 0x100]);
    assert_eq!(m.bytes(DATA + 0x3000), [0]);
    assert_eq!(m.v.cpu.gpr[gpr::RCX], 0);
    assert_eq!(m.v.cpu.gpr[gpr::RSI], DATA + 0x1080);
}

#[test]
fn overlapping_move_repeats_the_pattern() {
    let m = long(&[0xF3, 0xA4], |m| {
        m.v.cpu.gpr[gpr::RSI] = DATA;
        m.v.cpu.gpr[gpr::RDI] = DATA + 2;
        m.v.cpu.gpr[gpr::RCX] = 4;
        m.store(DATA, b"ab");
    });
    assert_eq!(&m.bytes(DATA), b"ababab");
}

#[test]
fn repeated_store_downwards_fills_below() {
    // rep stosd
    let m = long(&[0xF3, 0xAB], |m| {
        m.v.cpu.gpr[gpr::RAX] = 0x0403_0201;
        m.v.cpu.gpr[gpr::RDI] = DATA + 0x1004;
        m.v.cpu.gpr[gpr::RCX] = 3;
        m.v.cpu.rflags |= flags::DF;
    });
    assert_eq!(
        m.bytes(DATA + 0xFF8),
        [0, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
    );
    assert_eq!(m.v.cpu.gpr[gpr::RDI], DATA + 0xFF8);
}

#[test]
fn fault_in_a_string_leaves_registers_at_the_element() {
    // rep stosw into the absent page
    let (m, fault) = long_fault(&[0xF3, 0x66, 0xAB], |m| {
        m.v.cpu.gpr[gpr::RDI] = ABSENT - 5;
        m.v.cpu.gpr[gpr::RCX] = 9;
    });
    assert_eq!(fault, Fault::page(ABSENT, 2));
    assert_eq!(m.v.cpu.gpr[gpr::RCX], 7);
    assert_eq!(m.v.cpu.gpr[gpr::RDI], ABSENT - 1);
    assert_eq!(m.v.cpu.rip, CODE);
}

#[test]
fn long_strings_stop_at_the_instruction_to_let_interrupts_in() {
    let mut m = Machine::long(&[0xF3, 0xAA]);
    m.v.cpu.gpr[gpr::RDI] = 0x2_0000;
    m.v.cpu.gpr[gpr::RCX] = 0x3000;
    m.step().unwrap();
    assert_eq!(m.v.cpu.rip, CODE);
    assert_eq!(m.v.cpu.gpr[gpr::RCX], 0x2000);
}

#[test]
fn sixteen_bit_strings_wrap_their_offsets() {
    let m = real(&[0xF3, 0xAA], |m| {
        m.v.cpu.gpr[gpr::RAX] = 0x99;
        m.v.cpu.gpr[gpr::RDI] = 0xABCD_FFFF;
        m.v.cpu.gpr[gpr::RCX] = 2;
    });
    assert_eq!(m.bytes(0xFFFF), [0x99]);
    assert_eq!(m.bytes(0), [0x99]);
    assert_eq!(m.v.cpu.gpr[gpr::RDI], 0xABCD_0001);
}

#[test]
fn scan_ends_at_the_first_match() {
    // repne scasb
    let m = long(&[0xF2, 0xAE], |m| {
        m.v.cpu.gpr[gpr::RDI] = DATA;
        m.v.cpu.gpr[gpr::RCX] = 10;
        m.store(DATA, b"xyz");
        m.v.cpu.gpr[gpr::RAX] = b'z' as u64;
    });
    assert_eq!(m.v.cpu.gpr[gpr::RCX], 7);
    assert_eq!(m.v.cpu.gpr[gpr::RDI], DATA + 3);
}

#[test]
fn comparison_honours_a_segment_override() {
    // fs repe cmpsb
    let m = real(&[0x64, 0xF3, 0xA6], |m| {
        m.v.cpu.seg[seg::FS].base = DATA;
        m.v.cpu.gpr[gpr::RDI] = DATA + 0x100;
        m.v.cpu.gpr[gpr::RCX] = 3;
        m.store(DATA, b"abc");
        m.store(DATA + 0x100, b"abd");
    });
    assert_eq!(m.v.cpu.gpr[gpr::RSI], 3);
    assert_eq!(m.v.cpu.rflags & flags::ZF, 0);
}

#[test]
fn ports_without_a_device_read_ones() {
    // in eax, dx
    let m = long(&[0xED], |_| {});
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0xFFFF_FFFF);
}

/// A machine at CPL 3 whose TSS at `DATA` permits ports 8 to 15 only.
fn with_bitmap(code: &[u8]) -> Machine {
    let m = Machine::protected(code);
    m.v.cpu.cpl = 3;
    m.v.cpu.tr = Segment {
        base: DATA,
        limit: 104 + 2,
        attributes: attr::P | 0xB,
        selector: 0x28,
    };
    m.store(DATA + 102, &[104, 0, 0xFF, 0x00, 0xFF]);
    m
}

#[test]
fn the_bitmap_decides_about_ports_below_iopl() {
    // in al, 8; in al, 7; in ax, 15
    let mut m = with_bitmap(&[0xE4, 8, 0xE4, 7]);
    m.step().unwrap();
    assert_eq!(m.step(), Err(Fault::GP0));
    assert_eq!(with_bitmap(&[0x66, 0xE5, 15]).step(), Err(Fault::GP0));
}

#[test]
fn ports_past_the_end_of_the_tss_are_forbidden() {
    // in al, 16
    assert_eq!(with_bitmap(&[0xE4, 16]).step(), Err(Fault::GP0));
}

#[test]
fn lea_truncates_to_address_and_operand_size() {
    // lea ax, [bx+si+1] in 16-bit code; addr32 lea rcx, [rax-1] in 64-bit
    let m = real(&[0x8D, 0x40, 1], |m| {
        m.v.cpu.gpr[gpr::RBX] = 0xFFFF;
        m.v.cpu.gpr[gpr::RSI] = 3;
        m.v.cpu.gpr[gpr::RAX] = 0x1234_5678;
    });
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0x1234_0003);
    let m = long(&[0x67, 0x48, 0x8D, 0x48, 0xFF], |_| {});
    assert_eq!(m.v.cpu.gpr[gpr::RCX], 0xFFFF_FFFF);
}

#[test]
fn moffs_with_a_32_bit_address_reads_there() {
    // addr32 mov al, [DATA], in 64-bit code
    let m = long(&[0x67, 0xA0, 0, 0x80, 0, 0], |m| m.store(DATA, &[0x5A]));
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0x5A);
}

#[test]
fn real_mode_writes_through_cs() {
    // mov cs:[bx], al
    let m = real(&[0x2E, 0x88, 0x07], |m| {
        m.v.cpu.gpr[gpr::RAX] = 0x5A;
        m.v.cpu.gpr[gpr::RBX] = DATA;
    });
    assert_eq!(m.bytes(DATA), [0x5A]);
}

#[test]
fn protected_mode_does_not_write_through_cs() {
    // mov cs:[ebx], al
    let mut m = Machine::protected(&[0x2E, 0x88, 0x03]);
    assert_eq!(m.step(), Err(Fault::GP0));
}
