use super::*;

fn samples(shape: u8, attenuation: u32) -> Vec<i32> {
    (0..1024)
        .map(|phase| TABLES.wave(shape, phase, attenuation))
        .collect()
}

/// A sine of the chip's size.
fn sine(phase: usize) -> f64 {
    4084.0 * ((phase as f64 + 0.5) * PI / 512.0).sin()
}

fn assert_is(shape: u8, wanted: impl Fn(usize) -> f64) {
    for (phase, sample) in samples(shape, 0).into_iter().enumerate() {
        let wanted = wanted(phase);
        let error = (f64::from(sample) - wanted).abs();
        assert!(error < 8.0, "{shape}: {sample} at {phase}, not {wanted}");
    }
}

#[test]
fn the_tables_end_as_the_chips_do() {
    assert_eq!((TABLES.log_sine[0], TABLES.log_sine[255]), (2137, 0));
    assert_eq!((TABLES.power[0], TABLES.power[255]), (2042, 1024));
}

#[test]
fn waveforms_0_to_3_are_a_sine_its_half_its_size_and_its_quarters() {
    assert_is(0, sine);
    assert_is(1, |phase| sine(phase).max(0.0));
    assert_is(2, |phase| sine(phase).abs());
    assert_is(3, |phase| {
        if phase & 0x100 == 0 {
            sine(phase).abs()
        } else {
            0.0
        }
    });
}

#[test]
fn waveforms_4_and_5_are_a_whole_period_in_half_the_time() {
    let twice = |phase| 4084.0 * ((2.0 * phase as f64 + 0.5) * PI / 512.0).sin();
    assert_is(4, |phase| if phase < 512 { twice(phase) } else { 0.0 });
    assert_is(
        5,
        |phase| if phase < 512 { twice(phase).abs() } else { 0.0 },
    );
}

#[test]
fn waveform_6_is_a_square() {
    assert_is(6, |phase| if phase < 512 { 4084.0 } else { -4084.0 });
}

#[test]
fn waveform_7_falls_to_a_half_every_32_steps_and_comes_back_below() {
    assert_is(7, |phase| match phase {
        0..512 => 4084.0 * 0.5f64.powf(phase as f64 / 32.0),
        _ => -4084.0 * 0.5f64.powf((1023 - phase) as f64 / 32.0),
    });
}

#[test]
fn a_step_of_attenuation_is_three_sixteenths_of_a_decibel() {
    for attenuation in 0..128 {
        let peak = f64::from(samples(0, attenuation).into_iter().max().unwrap_or(0));
        let wanted = 10f64.powf(-f64::from(attenuation) * 0.188_16 / 20.0);
        let error = (peak / 4084.0 / wanted - 1.0).abs();
        assert!(error < 0.01, "{attenuation}: {peak}");
    }
}

#[test]
fn envelopes_go_as_fast_as_their_rates_say() {
    for rate in 4..60 {
        let octave = rate >> 2;
        let frames = 1u64 << 15u32.saturating_sub(octave).max(3);
        let steps = (0..frames).map(|frame| match envelope_step(rate, frame) {
            0 => 0,
            step => 1u64 << (step - 1),
        });
        // Steps a frame: (4 + rate % 4) / 4 × 2^(octave − 13).
        let wanted = ((u64::from(4 + rate % 4) * frames) << octave) >> 15;
        assert_eq!(steps.sum::<u64>(), wanted, "rate {rate}");
    }
}

#[test]
fn nothing_that_registers_or_voices_say_overflows() {
    let mut random = 1u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 8
    };
    for _ in 0..200 {
        let registers = std::array::from_fn(|_| next() as u8);
        let mut voices = Voices {
            frame: u64::from(next()) << 20,
            noise: next(),
            operators: std::array::from_fn(|_| {
                Operator::new(next(), next(), next() & 3, [5000; 2])
            }),
        };
        let keys = u64::from(next()) << 20 ^ u64::from(next());
        voices.play(&registers, keys, (1.0, 8.0), &mut [[0; 2]; 300]);
        for operator in &voices.operators {
            assert!(operator.attenuation <= OFF && operator.phase <= PHASE_MASK);
        }
    }
}
