//! Tests of the local APIC, mostly without a processor; time is what they say it is.

use super::registers::reg;
use super::*;
use crate::exit::Exit;
use crate::io::IoMap;
use crate::memory::Memory;
use crate::vcpu::{Backend, EoiBroadcast, Vm, locked, tsc_hz};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const ALL: Features = Features {
    apic: true,
    x2apic: true,
    tsc_deadline: true,
};
const TO_THIS: Message = Message {
    vector: 0x51,
    delivery_mode: 0,
    destination: 0,
    logical: false,
    level_triggered: false,
};

fn at(host_tsc: u64) -> Now {
    Now {
        host_tsc,
        tsc: host_tsc,
    }
}

/// Enabled by software, at time 0.
fn apic() -> Apic {
    let mut apic = Apic::new(0, ALL);
    set(&mut apic, reg::SVR, SVR_ENABLED | 0xFF);
    apic
}

fn x2apic() -> Apic {
    let mut apic = apic();
    let value = apic.base_msr() | base::EXTD;
    apic.set_base_msr(value).unwrap();
    apic
}

fn set(apic: &mut Apic, offset: u64, value: u32) -> Effect {
    apic.write_register(offset, value, at(0))
}

fn get(apic: &mut Apic, offset: u64) -> u32 {
    apic.read_register(offset, at(0))
}

fn fixed(apic: &mut Apic, vector: u8, level_triggered: bool) {
    let signal = apic.accept(Message {
        vector,
        level_triggered,
        ..TO_THIS
    });
    assert_eq!(signal, None);
}

/// Host ticks that a count of the timer takes with divisor 1.
fn ticks(count: u64) -> u64 {
    (count as u128 * tsc_hz() as u128 / BUS_HZ as u128) as u64
}

#[test]
fn reset_state_is_masked_and_disabled_by_software() {
    let mut a = Apic::new(0, ALL);
    assert_eq!(get(&mut a, reg::SVR), 0xFF);
    assert_eq!(get(&mut a, reg::LVT_TIMER), lvt::MASKED);
    assert_eq!(a.base_msr(), 0xFEE0_0900);
    assert!(!a.accepts_extint());
}

#[test]
fn version_tells_of_six_lvt_entries() {
    assert_eq!(get(&mut apic(), reg::VERSION), 0x0005_0014);
}

#[test]
fn an_interrupt_goes_from_irr_to_isr_and_ends_with_eoi() {
    let mut a = apic();
    fixed(&mut a, 0x51, false);
    assert_eq!(get(&mut a, reg::IRR + 0x20), 1 << 0x11);
    assert_eq!(a.acknowledge(), Some(0x51));
    assert_eq!(get(&mut a, reg::IRR + 0x20), 0);
    assert_eq!(get(&mut a, reg::ISR + 0x20), 1 << 0x11);
    assert_eq!(get(&mut a, reg::PPR), 0x50);
    assert_eq!(set(&mut a, reg::EOI, 0), Effect::None);
    assert_eq!(get(&mut a, reg::ISR + 0x20), 0);
}

#[test]
fn an_interrupt_of_the_class_in_service_waits() {
    let mut a = apic();
    fixed(&mut a, 0x51, false);
    a.acknowledge();
    fixed(&mut a, 0x5F, false);
    assert_eq!(a.pending(), None);
    fixed(&mut a, 0x60, false);
    assert_eq!(a.pending(), Some(0x60));
}

#[test]
fn cr8_holds_off_its_class_and_below() {
    let mut a = apic();
    fixed(&mut a, 0x51, false);
    a.set_cr8(5);
    assert_eq!(get(&mut a, reg::TPR), 0x50);
    assert_eq!(a.pending(), None);
    a.set_cr8(4);
    assert_eq!(a.pending(), Some(0x51));
}

#[test]
fn a_lower_task_priority_makes_the_cpu_look_for_what_waited() {
    let mut a = apic();
    assert_eq!(set(&mut a, reg::TPR, 0x50), Effect::None);
    fixed(&mut a, 0x51, false);
    assert_eq!(set(&mut a, reg::TPR, 0x60), Effect::None);
    assert_eq!(set(&mut a, reg::TPR, 0x40), Effect::Look);
}

#[test]
fn eoi_of_a_level_triggered_interrupt_is_broadcast() {
    let mut a = apic();
    fixed(&mut a, 0x51, true);
    assert_eq!(get(&mut a, reg::TMR + 0x20), 1 << 0x11);
    a.acknowledge();
    assert_eq!(set(&mut a, reg::EOI, 0), Effect::Eoi(0x51));
}

#[test]
fn eoi_without_an_interrupt_in_service_does_nothing() {
    assert_eq!(set(&mut apic(), reg::EOI, 0), Effect::None);
}

#[test]
fn eoi_makes_the_cpu_look_for_what_waited() {
    let mut a = apic();
    fixed(&mut a, 0x51, false);
    a.acknowledge();
    fixed(&mut a, 0x52, false);
    assert_eq!(set(&mut a, reg::EOI, 0), Effect::Look);
    assert_eq!(a.pending(), Some(0x52));
}

#[test]
fn disabled_by_software_it_accepts_no_interrupts_but_nmis() {
    let mut a = Apic::new(0, ALL);
    fixed(&mut a, 0x51, false);
    assert_eq!(a.pending(), None);
    let nmi = Message {
        delivery_mode: delivery::NMI,
        ..TO_THIS
    };
    assert_eq!(a.accept(nmi), Some(Signal::Nmi));
}

#[test]
fn disabling_by_software_masks_the_lvt_and_keeps_it_masked() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 0x40);
    set(&mut a, reg::SVR, 0xFF);
    assert_eq!(get(&mut a, reg::LVT_TIMER), lvt::MASKED | 0x40);
    set(&mut a, reg::LVT_TIMER, 0x41);
    assert_eq!(get(&mut a, reg::LVT_TIMER), lvt::MASKED | 0x41);
}

#[test]
fn globally_disabled_intr_and_nmi_go_straight_in() {
    let mut a = apic();
    a.set_base_msr(base::RESET_ADDRESS | base::BSP).unwrap();
    assert!(a.accepts_extint());
    assert_eq!(a.pulse_nmi(), Some(Signal::Nmi));
    assert_eq!(a.page(), None);
}

#[test]
fn virtual_wire_mode_passes_intr_and_nmi() {
    let mut a = apic();
    assert_eq!(a.pulse_nmi(), None);
    set(&mut a, reg::LVT_TIMER + 0x30, 0x700);
    set(&mut a, reg::LVT_TIMER + 0x40, 0x400);
    assert!(a.accepts_extint());
    assert_eq!(a.drive_intr(true), None);
    assert_eq!(a.pending(), None);
    assert_eq!(a.pulse_nmi(), Some(Signal::Nmi));
}

#[test]
fn lint0_as_a_fixed_edge_interrupts_once() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER + 0x30, 0x0030);
    assert_eq!(a.drive_intr(true), None);
    assert_eq!(a.acknowledge(), Some(0x30));
    set(&mut a, reg::EOI, 0);
    assert_eq!(a.drive_intr(true), None);
    assert_eq!(a.pending(), None);
    assert_eq!(a.drive_intr(false), None);
    assert_eq!(a.drive_intr(true), None);
    assert_eq!(a.pending(), Some(0x30));
}

#[test]
fn lint0_as_a_fixed_level_interrupts_again_after_eoi() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER + 0x30, 0x8030);
    assert_eq!(a.drive_intr(true), None);
    assert_eq!(get(&mut a, reg::LVT_TIMER + 0x30), 0xC030);
    assert_eq!(a.acknowledge(), Some(0x30));
    assert_eq!(a.drive_intr(true), None);
    assert_eq!(a.pending(), None);
    set(&mut a, reg::EOI, 0);
    assert_eq!(a.drive_intr(true), None);
    assert_eq!(a.pending(), Some(0x30));
}

#[test]
fn flat_logical_destinations_match_any_bit() {
    let mut a = apic();
    set(&mut a, reg::LDR, 0x0200_0000);
    let mut message = Message {
        logical: true,
        destination: 0x03,
        ..TO_THIS
    };
    assert!(a.addressed(&message));
    message.destination = 0x01;
    assert!(!a.addressed(&message));
}

#[test]
fn cluster_destinations_match_cluster_and_bit() {
    let mut a = apic();
    set(&mut a, reg::DFR, 0x0000_0000);
    set(&mut a, reg::LDR, 0x2100_0000);
    let mut message = Message {
        logical: true,
        destination: 0x23,
        ..TO_THIS
    };
    assert!(a.addressed(&message));
    message.destination = 0x11;
    assert!(!a.addressed(&message));
}

#[test]
fn another_processors_message_is_not_taken() {
    let mut a = apic();
    let elsewhere = Message {
        destination: 1,
        ..TO_THIS
    };
    assert_eq!(a.accept(elsewhere), None);
    assert_eq!(a.pending(), None);
}

#[test]
fn a_self_ipi_by_shorthand_becomes_pending() {
    let mut a = apic();
    assert_eq!(set(&mut a, reg::ICR_LOW, 1 << 18 | 0xF0), Effect::Look);
    assert_eq!(a.pending(), Some(0xF0));
    assert_eq!(get(&mut a, reg::ICR_LOW), 1 << 18 | 0xF0);
}

#[test]
fn an_ipi_to_all_but_itself_reaches_nobody() {
    let mut a = apic();
    assert_eq!(set(&mut a, reg::ICR_LOW, 3 << 18 | 0xF0), Effect::None);
    assert_eq!(a.pending(), None);
}

#[test]
fn an_init_ipi_to_this_processor_is_a_signal() {
    let mut a = apic();
    assert_eq!(
        set(&mut a, reg::ICR_LOW, 0x4500),
        Effect::Signal(Signal::Init)
    );
    // Level de-assert.
    assert_eq!(set(&mut a, reg::ICR_LOW, 0x8500), Effect::None);
}

#[test]
fn start_up_counts_only_after_init() {
    let mut a = apic();
    assert_eq!(set(&mut a, reg::ICR_LOW, 0x4699), Effect::Look);
    a.state.wait_for_sipi = true;
    assert_eq!(
        set(&mut a, reg::ICR_LOW, 0x4699),
        Effect::Signal(Signal::StartUp(0x99))
    );
}

#[test]
fn an_illegal_vector_sets_esr_and_interrupts() {
    let mut a = apic();
    set(&mut a, reg::LVT_ERROR, 0xFE);
    set(&mut a, reg::ICR_LOW, 1 << 18 | 0x0F);
    assert_eq!(get(&mut a, reg::ESR), 0);
    set(&mut a, reg::ESR, 0);
    assert_eq!(get(&mut a, reg::ESR), esr::SEND_ILLEGAL_VECTOR);
    assert_eq!(a.pending(), Some(0xFE));
    set(&mut a, reg::ESR, 0);
    assert_eq!(get(&mut a, reg::ESR), 0);
}

#[test]
fn an_unknown_register_reads_zero_and_sets_esr() {
    let mut a = apic();
    assert_eq!(get(&mut a, 0x3F0), 0);
    set(&mut a, reg::ESR, 0);
    assert_eq!(get(&mut a, reg::ESR), esr::ILLEGAL_REGISTER);
}

#[test]
fn reserved_bits_of_the_lvt_read_zero() {
    let mut a = apic();
    set(&mut a, reg::LVT_ERROR, 0xFFFF_FFFF);
    assert_eq!(get(&mut a, reg::LVT_ERROR), 0x1_00FF);
}

#[test]
fn a_one_shot_count_fires_once() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 0x40);
    set(&mut a, reg::DIVIDE, 0xB);
    set(&mut a, reg::INITIAL_COUNT, 1000);
    assert_eq!(a.timer_deadline(at(0)), Some(ticks(1000)));
    assert_eq!(get(&mut a, reg::CURRENT_COUNT), 1000);
    a.run_timer(at(ticks(1000) - 1));
    assert_eq!(a.pending(), None);
    a.run_timer(at(ticks(1000)));
    assert_eq!(a.acknowledge(), Some(0x40));
    assert_eq!(a.timer_deadline(at(ticks(1000))), None);
    assert_eq!(a.read_register(reg::CURRENT_COUNT, at(ticks(1000))), 0);
}

#[test]
fn the_divider_stretches_the_count() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 0x40);
    // Reset: divide by 2.
    set(&mut a, reg::INITIAL_COUNT, 1000);
    assert_eq!(a.timer_deadline(at(0)), Some(ticks(2000)));
    set(&mut a, reg::DIVIDE, 0xA);
    let stretched = a.timer_deadline(at(0)).unwrap();
    assert!(stretched.abs_diff(ticks(128_000)) <= ticks(128));
}

#[test]
fn a_periodic_count_goes_on_and_loses_unnoticed_periods() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 1 << 17 | 0x40);
    set(&mut a, reg::DIVIDE, 0xB);
    set(&mut a, reg::INITIAL_COUNT, 1000);
    let period = ticks(1000);
    a.run_timer(at(3 * period + 5));
    assert_eq!(a.acknowledge(), Some(0x40));
    assert_eq!(a.timer_deadline(at(3 * period + 5)), Some(4 * period));
}

#[test]
fn a_masked_timer_counts_without_interrupts() {
    let mut a = apic();
    set(&mut a, reg::DIVIDE, 0xB);
    set(&mut a, reg::INITIAL_COUNT, 1000);
    assert_eq!(a.timer_deadline(at(0)), None);
    let half = at(ticks(500));
    assert!(a.read_register(reg::CURRENT_COUNT, half).abs_diff(500) <= 1);
    a.write_register(reg::LVT_TIMER, 0x40, at(ticks(2000)));
    assert_eq!(a.pending(), None);
}

#[test]
fn a_count_that_stood_still_goes_on_where_it_was() {
    let mut a = apic();
    set(&mut a, reg::DIVIDE, 0xB);
    set(&mut a, reg::INITIAL_COUNT, 1000);
    a.skip_time(ticks(5000));
    let half = at(ticks(5500));
    assert!(a.read_register(reg::CURRENT_COUNT, half).abs_diff(500) <= 1);
}

#[test]
fn an_initial_count_of_zero_stops_the_timer() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 0x40);
    set(&mut a, reg::INITIAL_COUNT, 1000);
    set(&mut a, reg::INITIAL_COUNT, 0);
    assert_eq!(a.timer_deadline(at(0)), None);
}

#[test]
fn the_smallest_period_terminates() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 1 << 17 | 0x40);
    set(&mut a, reg::DIVIDE, 0xB);
    set(&mut a, reg::INITIAL_COUNT, 1);
    a.run_timer(at(u64::MAX - 1));
    assert!(a.timer_deadline(at(u64::MAX - 1)).is_some());
}

#[test]
fn the_tsc_deadline_is_one_of_the_guests_tsc() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 2 << 17 | 0x40);
    a.set_tsc_deadline(1000);
    let now = Now {
        host_tsc: 50,
        tsc: 400,
    };
    assert_eq!(a.timer_deadline(now), Some(650));
    a.run_timer(Now { tsc: 1000, ..now });
    assert_eq!(a.pending(), Some(0x40));
    assert_eq!(a.tsc_deadline(), 0);
}

#[test]
fn the_tsc_deadline_is_ignored_in_other_modes() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 0x40);
    a.set_tsc_deadline(1000);
    assert_eq!(a.tsc_deadline(), 0);
}

#[test]
fn changing_to_or_from_deadline_mode_disarms() {
    let mut a = apic();
    set(&mut a, reg::LVT_TIMER, 0x40);
    set(&mut a, reg::INITIAL_COUNT, 1000);
    set(&mut a, reg::LVT_TIMER, 2 << 17 | 0x40);
    assert_eq!(a.timer_deadline(at(0)), None);
    a.set_tsc_deadline(1000);
    set(&mut a, reg::LVT_TIMER, 0x40);
    assert_eq!(a.tsc_deadline(), 0);
}

#[test]
fn x2apic_mode_is_left_only_by_disabling() {
    let mut a = x2apic();
    assert_eq!(a.page(), None);
    let xapic = base::RESET_ADDRESS | base::EN | base::BSP;
    assert_eq!(a.set_base_msr(xapic), Err(Fault::GP0));
    a.set_base_msr(base::RESET_ADDRESS | base::BSP).unwrap();
    let straight = xapic | base::EXTD;
    assert_eq!(a.set_base_msr(straight), Err(Fault::GP0));
    a.set_base_msr(xapic).unwrap();
}

#[test]
fn x2apic_registers_are_checked() {
    let mut a = x2apic();
    for (offset, value) in [
        (reg::ID, 0),
        (reg::DFR, 0),
        (reg::EOI, 1),
        (reg::ESR, 1),
        (reg::LVT_ERROR, 1 << 8),
        (reg::ICR_HIGH, 0),
        (reg::TPR, 0x100),
    ] {
        let fault = a.write_x2apic(offset, value, at(0));
        assert_eq!(fault, Err(Fault::GP0), "{offset:#x}");
    }
}

#[test]
fn x2apic_ids_are_wide_and_logical_ones_derived() {
    let mut a = Apic::new(0x25, ALL);
    a.set_base_msr(base::RESET_ADDRESS | base::EN).unwrap();
    a.set_base_msr(base::RESET_ADDRESS | base::EN | base::EXTD)
        .unwrap();
    assert_eq!(get(&mut a, reg::ID), 0x25);
    assert_eq!(get(&mut a, reg::LDR), 0x0002_0020);
}

#[test]
fn x2apic_self_ipi_becomes_pending() {
    let mut a = x2apic();
    a.write_x2apic(reg::SELF_IPI, 0x77, at(0)).unwrap();
    assert_eq!(a.pending(), Some(0x77));
}

#[test]
fn an_x2apic_icr_takes_destination_and_command_at_once() {
    let mut a = x2apic();
    let to_another = 5u64 << 32 | 0x77;
    a.write_x2apic(reg::ICR_LOW, to_another, at(0)).unwrap();
    assert_eq!(a.pending(), None);
    a.write_x2apic(reg::ICR_LOW, 0x77, at(0)).unwrap();
    assert_eq!(a.pending(), Some(0x77));
}

#[test]
fn the_base_address_can_move() {
    let mut a = apic();
    a.set_base_msr(0xFEC8_0000 | base::EN | base::BSP).unwrap();
    assert_eq!(a.page(), Some(0xFEC8_0000));
    let beyond = 1 << PHYSICAL_BITS | base::EN;
    assert_eq!(a.set_base_msr(beyond), Err(Fault::GP0));
}

#[test]
fn without_an_apic_there_is_no_base() {
    let mut a = Apic::new(0, Features { apic: false, ..ALL });
    assert_eq!(a.page(), None);
    assert!(a.accepts_extint());
    assert_eq!(a.set_base_msr(base::EN), Err(Fault::GP0));
}

#[test]
fn init_keeps_the_base_and_resets_the_rest() {
    let mut a = apic();
    a.set_base_msr(0xFEC8_0000 | base::EN | base::BSP).unwrap();
    fixed(&mut a, 0x51, false);
    a.init();
    assert_eq!(a.page(), Some(0xFEC8_0000));
    assert_eq!(a.pending(), None);
    assert_eq!(get(&mut a, reg::SVR), 0xFF);
}

#[test]
fn an_extint_message_asks_for_an_acknowledge_cycle() {
    let mut a = apic();
    let message = Message {
        delivery_mode: delivery::EXTINT,
        ..TO_THIS
    };
    assert_eq!(a.accept(message), None);
    assert!(a.state.extint);
}

#[test]
fn no_sequence_of_writes_and_times_is_too_much() {
    let mut a = apic();
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        random >> 16
    };
    for _ in 0..200_000 {
        let now = Now {
            host_tsc: next() << (next() % 17),
            tsc: next() << (next() % 17),
        };
        let offset = next() % 0x40 * 16;
        a.write_register(offset, next() as u32, now);
        a.read_register(next() % 0x40 * 16, now);
        a.set_tsc_deadline(next());
        let _ = a.write_x2apic(offset, next(), now);
        let _ = a.drive_intr(next() % 2 == 0);
        a.timer_deadline(now);
        a.acknowledge();
    }
}

/// A processor, its APIC enabled by software.
fn vcpu(index: u32) -> Vcpu {
    let vm = Arc::new(Vm {
        memory: Arc::new(Memory::new(1 << 20, 1 << 20).unwrap()),
        io: IoMap::default(),
    });
    let mut v = Vcpu::new(vm, index, Model::named("max").unwrap(), Backend::Interp).unwrap();
    v.apic_write(reg::SVR, 4, 0x1FF);
    v
}

#[test]
fn registers_read_by_part_and_are_written_whole() {
    let mut v = vcpu(0);
    v.apic_write(reg::LVT_TIMER, 4, 0x1_0040);
    v.apic_write(reg::LVT_TIMER, 1, 0x55);
    v.apic_write(reg::LVT_TIMER + 4, 4, 0x55);
    assert_eq!(v.apic_read(reg::LVT_TIMER, 8), 0x1_0040);
    assert_eq!(v.apic_read(reg::LVT_TIMER + 2, 1), 0x01);
    assert_eq!(v.apic_read(reg::LVT_TIMER + 4, 4), 0);
}

#[test]
fn eoi_calls_the_io_apics() {
    let heard = Arc::new(AtomicU32::new(0));
    let mut v = vcpu(0);
    let hears = heard.clone();
    let handler: EoiBroadcast =
        Box::new(move |vector| hears.store(vector.into(), Ordering::Relaxed));
    *locked(&v.shared.eoi) = Some(Arc::new(handler));
    fixed(&mut v.apic, 0x51, true);
    v.apic.acknowledge();
    v.apic_write(reg::EOI, 4, 0);
    assert_eq!(heard.load(Ordering::Relaxed), 0x51);
}

#[test]
fn init_starts_the_bootstrap_processor_anew_and_keeps_msrs() {
    let mut v = vcpu(0);
    v.cpu.rip = 0x1234;
    v.cpu.msr.star = 5;
    v.cpu.cr0 = cr0::PE | cr0::CD;
    v.apic_write(reg::ICR_LOW, 4, 0x4500);
    assert_eq!((v.cpu.rip, v.cpu.msr.star), (0xFFF0, 5));
    assert_eq!(v.cpu.cr0, cr0::CD | cr0::ET);
    assert!(!v.cpu.halted);
}

#[test]
fn another_processor_waits_for_its_start_up_message() {
    let mut v = vcpu(1);
    v.reset();
    assert_eq!(v.run(), Exit::Halt);
    v.vm.memory.write(0x9_9000, &[0xF4], |_| false);
    let start_up = Message {
        vector: 0x99,
        delivery_mode: delivery::START_UP,
        destination: 1,
        ..TO_THIS
    };
    v.shared.deliver(start_up);
    v.wait();
    assert_eq!(v.run(), Exit::Halt);
    assert_eq!((v.cpu.seg[seg::CS].base, v.cpu.rip), (0x9_9000, 1));
}

#[test]
fn cpuid_hides_a_disabled_apic() {
    let mut v = vcpu(0);
    assert_eq!(v.cpuid(1, 0).edx >> 9 & 1, 1);
    v.set_apic_base(0xFEE0_0100).unwrap();
    assert_eq!(v.cpuid(1, 0).edx >> 9 & 1, 0);
}

#[test]
fn x2apic_msrs_exist_in_x2apic_mode_only() {
    let mut v = vcpu(0);
    assert_eq!(v.apic_msr_read(0x802), Err(Fault::GP0));
    v.set_apic_base(0xFEE0_0D00).unwrap();
    assert_eq!(v.apic_msr_read(0x802), Ok(0));
    assert_eq!(v.apic_msr_write(0x802, 1), Err(Fault::GP0));
    v.apic_msr_write(0x83F, 0x41).unwrap();
    assert_eq!(v.apic.pending(), Some(0x41));
}
