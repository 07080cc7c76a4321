//! What the 36 operators of a YMF262 (OPL3) play.
//!
//! Yamaha, "YMF262 Application Manual", 1990: registers, rates and algorithms, under the manual's names.
//! Widths of numbers and the two tables are those that photographs of the dies show (Gambrell and
//! Niemitalo, "OPLx decapsulated", 2008).  All arithmetic is the chip's, on logarithms: an operator adds
//! the logarithm of a sine and its attenuation, and a table of powers of two makes a sample of the sum.
//!
//! The registers are the caller's, and so is what follows from them at once: which operators are keyed.
//! Operators are numbered as the chip's time slots are: 18 in each register set.
//!
//! Units: attenuation in 0.1875 dB, time in frames (1/49716 s), phase in 1/2^19 of a period.
//!
//! Not here: outputs C and D, the register for tests, the frame's 36 steps (a register counts for a frame).

use std::f64::consts::PI;
use std::sync::LazyLock;

pub const OPERATORS: usize = 36;
pub const REGISTERS: usize = 512;

/// Attenuation: the most there is, and from where on nothing is heard.
const OFF: u32 = 0x1FF;
const INAUDIBLE: u32 = 0x1F8;
const PHASE_MASK: u32 = 0x7_FFFF;
/// Tremolo goes on a step each 64 frames, vibrato each 1024: constants for so many frames.
const TREMOLO_FRAMES: u64 = 64;
const TREMOLO_STEPS: u64 = 210;
const VIBRATO_FRAMES: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Attack,
    Decay,
    Sustain,
    Release,
}

impl Stage {
    fn from_number(number: u32) -> Stage {
        use Stage::*;
        *[Attack, Decay, Sustain]
            .get(number as usize)
            .unwrap_or(&Release)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator {
    pub phase: u32,
    pub attenuation: u32,
    pub stage: Stage,
    /// The last sample and the one before.
    pub output: [i32; 2],
}

impl Operator {
    /// One that can be, of numbers that may be anything.
    pub fn new(phase: u32, attenuation: u32, stage: u32, output: [i32; 2]) -> Operator {
        Operator {
            phase: phase & PHASE_MASK,
            attenuation: attenuation & OFF,
            stage: Stage::from_number(stage),
            output: output.map(|sample| sample.clamp(-4085, 4084)),
        }
    }
}

/// What goes on in the chip from frame to frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voices {
    /// Frames since power-on, by which envelopes, tremolo and vibrato go.
    pub frame: u64,
    /// The shift register of rhythm sounds, 23 bits.
    pub noise: u32,
    pub operators: [Operator; OPERATORS],
}

// --- tables ---

struct Tables {
    /// -log2 of a quarter of a sine, in 1/256.
    log_sine: [u32; 256],
    /// 2^-(n/256), from 2042 down.
    power: [u32; 256],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    log_sine: std::array::from_fn(|n| {
        let sine = ((n as f64 + 0.5) * PI / 512.0).sin();
        (-sine.log2() * 256.0).round() as u32
    }),
    power: std::array::from_fn(|n| {
        let power = 2f64.powf((255 - n) as f64 / 256.0);
        1024 + ((power - 1.0) * 1024.0).round() as u32
    }),
});

/// Twice the factors of MULT.
const MULTIPLES: [u32; 16] = [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 20, 24, 24, 30, 30];
/// Key scale level at block 7 by the four upper bits of the frequency number, in 0.75 dB.
const KEY_SCALE: [u32; 16] = [
    0, 32, 40, 45, 48, 51, 53, 55, 56, 58, 59, 60, 61, 62, 63, 64,
];
/// By KSL: how far 6 dB an octave is shifted down; 0 is none at all.
const KEY_SCALE_SHIFT: [u32; 4] = [31, 1, 2, 0];

/// A logarithm beyond what a sample can have.
const SILENT: u32 = 0x1000;

impl Tables {
    /// -log2 of |sin|, of a phase of ten bits.
    fn sine(&self, phase: u32) -> u32 {
        let falling = if phase & 0x100 != 0 { 0xFF } else { 0 };
        self.log_sine[((phase ^ falling) & 0xFF) as usize]
    }

    /// A sample of ±4084.
    fn wave(&self, shape: u8, phase: u32, attenuation: u32) -> i32 {
        let second_half = phase & 0x200 != 0;
        let (log, negative) = match shape & 7 {
            0 => (self.sine(phase), second_half),
            1 | 4 | 5 if second_half => (SILENT, false),
            1 | 2 => (self.sine(phase), false),
            3 if phase & 0x100 != 0 => (SILENT, false),
            3 => (self.sine(phase), false),
            4 => (self.sine(2 * phase), phase & 0x100 != 0),
            5 => (self.sine(2 * phase), false),
            6 => (0, second_half),
            _ if second_half => ((!phase & 0x1FF) << 3, true),
            _ => ((phase & 0x1FF) << 3, false),
        };
        let log = (log + (attenuation << 3)).min(0x1FFF);
        let size = (self.power[(log & 0xFF) as usize] << 1 >> (log >> 8)) as i32;
        // The chip makes the negative half by inverting bits.
        if negative { !size } else { size }
    }
}

// --- registers ---

struct Registers<'a>(&'a [u8; REGISTERS]);

impl Registers<'_> {
    fn get(&self, bank: usize, register: usize) -> u32 {
        u32::from(self.0[bank << 8 | register])
    }

    fn bit(&self, bank: usize, register: usize, bit: u32) -> bool {
        self.get(bank, register) >> bit & 1 != 0
    }

    /// NEW: OPL3 mode.
    fn new_mode(&self) -> bool {
        self.bit(1, 0x05, 0)
    }

    fn rhythm(&self) -> bool {
        self.bit(0, 0xBD, 5)
    }

    /// Whether this channel and the third from it make one of four operators; of either.
    fn paired(&self, bank: usize, channel: usize) -> bool {
        let bit = (3 * bank + channel % 3) as u32;
        channel < 6 && self.new_mode() && self.bit(1, 0x04, bit)
    }
}

/// Where an operator gets its modulation from.
#[derive(Clone, Copy)]
enum Modulation {
    None,
    /// Itself: its last two samples, shifted down.
    Feedback(u32),
    /// An operator of a lower number.
    From(usize),
}

/// Rhythm sounds whose phase is more than a counter.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tone,
    HiHat,
    Snare,
    Cymbal,
}

const HI_HAT: usize = 13;
const TOM: usize = 14;
const SNARE: usize = 16;
const CYMBAL: usize = 17;

/// What the registers say of an operator.
#[derive(Clone, Copy)]
struct Patch {
    kind: Kind,
    modulation: Modulation,
    /// Factors on the left and the right; 0: not heard.
    left: i32,
    right: i32,
    waveform: u8,
    multiple: u32,
    frequency: u32,
    block: u32,
    vibrato: bool,
    tremolo: bool,
    /// Total level and key scale level.
    level: u32,
    sustain_level: u32,
    /// By stage: 0 (never) to 63.
    rates: [u32; 4],
}

impl Patch {
    fn new(registers: &Registers, number: usize) -> Patch {
        let (bank, slot) = (number / 18, number % 18);
        let (group, place) = (slot / 6, slot % 6);
        let at = 8 * group + place;
        let (channel, carrier) = (3 * group + place % 3, place >= 3);
        let paired = registers.paired(bank, channel);
        let owner = if paired { channel % 3 } else { channel };
        let (low, high) = (
            registers.get(bank, 0xA0 + owner),
            registers.get(bank, 0xB0 + owner),
        );
        let (frequency, block) = ((high & 3) << 8 | low, high >> 2 & 7);

        let note_select = registers.get(0, 0x08) >> 6 & 1;
        let key_scale = block << 1 | (frequency >> (9 - note_select) & 1);
        let flags = registers.get(bank, 0x20 + at);
        let offset = key_scale >> if flags & 0x10 != 0 { 0 } else { 2 };
        let rate = |value: u32| match value {
            0 => 0,
            _ => (4 * value + offset).min(63),
        };
        let (attack_decay, sustain_release) = (
            registers.get(bank, 0x60 + at),
            registers.get(bank, 0x80 + at),
        );
        let release = rate(sustain_release & 15);
        let sustained = flags & 0x20 != 0;
        let sustain_level = match sustain_release >> 4 {
            15 => 31,
            level => level,
        };

        let levels = registers.get(bank, 0x40 + at);
        let scale = (4 * KEY_SCALE[(frequency >> 6) as usize]).saturating_sub(32 * (8 - block));
        let shapes = if registers.new_mode() { 7 } else { 3 };
        let mut patch = Patch {
            kind: Kind::Tone,
            modulation: Modulation::None,
            left: 0,
            right: 0,
            waveform: (registers.get(bank, 0xE0 + at) & shapes) as u8,
            multiple: MULTIPLES[(flags & 15) as usize],
            frequency,
            block,
            vibrato: flags & 0x40 != 0,
            tremolo: flags & 0x80 != 0,
            level: 4 * (levels & 0x3F) + (scale >> KEY_SCALE_SHIFT[(levels >> 6) as usize]),
            sustain_level: sustain_level << 4,
            rates: [
                rate(attack_decay >> 4),
                rate(attack_decay & 15),
                if sustained { 0 } else { release },
                release,
            ],
        };
        patch.wire(registers, number, bank, channel, carrier);
        patch
    }

    /// Whom it modulates and whether it is heard: the algorithm of its channel.
    fn wire(
        &mut self,
        registers: &Registers,
        number: usize,
        bank: usize,
        channel: usize,
        carrier: bool,
    ) {
        let own = registers.get(bank, 0xC0 + channel);
        let additive = own & 1 != 0;
        let drum = bank == 0 && channel >= 6 && registers.rhythm();
        let mut loudness = i32::from(carrier || additive);
        let feedback = match own >> 1 & 7 {
            0 => Modulation::None,
            depth => Modulation::Feedback(9 - depth),
        };
        self.modulation = match (carrier, additive) {
            (false, _) => feedback,
            (true, false) => Modulation::From(number - 3),
            (true, true) => Modulation::None,
        };
        if registers.paired(bank, channel) {
            let first = registers.bit(bank, 0xC0 + channel % 3, 0);
            let second = registers.bit(bank, 0xC0 + channel % 3 + 3, 0);
            let step = 2 * usize::from(channel >= 3) + usize::from(carrier);
            let (source, heard) = match (step, first, second) {
                (0, heard, _) => (feedback, heard),
                (1, false, heard) => (Modulation::From(number - 3), heard),
                (1, true, _) => (Modulation::None, false),
                (2, false, true) => (Modulation::None, false),
                (2, _, heard) => (Modulation::From(number - 3), heard),
                (_, true, true) => (Modulation::None, true),
                _ => (Modulation::From(number - 3), true),
            };
            self.modulation = source;
            loudness = i32::from(heard);
        } else if drum {
            // Rhythm sounds are twice as loud; the bass drum's modulator is never heard itself.
            loudness = if channel == 6 {
                2 * i32::from(carrier)
            } else {
                2
            };
            self.kind = match number {
                HI_HAT => Kind::HiHat,
                SNARE => Kind::Snare,
                CYMBAL => Kind::Cymbal,
                _ => Kind::Tone,
            };
            if matches!(number, HI_HAT | TOM | SNARE | CYMBAL) {
                self.modulation = Modulation::None;
            }
        }
        let mono = !registers.new_mode();
        self.left = if mono || own & 0x10 != 0 { loudness } else { 0 };
        self.right = if mono || own & 0x20 != 0 { loudness } else { 0 };
    }

    fn heard(&self) -> bool {
        self.left | self.right != 0
    }

    /// What phase grows by each frame, with vibrato at its step.
    fn increment(&self, vibrato_step: u64, deep: bool) -> u32 {
        let mut frequency = self.frequency;
        if self.vibrato {
            let swing = match vibrato_step & 3 {
                0 => 0,
                2 => self.frequency >> 7,
                _ => self.frequency >> 8,
            } >> u32::from(!deep);
            frequency = if vibrato_step & 4 != 0 {
                frequency - swing
            } else {
                frequency + swing
            };
        }
        (((frequency << self.block) >> 1) * self.multiple) >> 1
    }
}

// --- envelopes ---

/// How far an envelope goes in this frame: nothing, or 1 to 3 for steps of 1, 2 and 4 (attack: eighths,
/// quarters and halves of what is left).
fn envelope_step(rate: u32, frame: u64) -> u32 {
    if rate == 0 {
        return 0;
    }
    let (octave, quarters) = (rate >> 2, rate & 3);
    let (pair, second) = (frame >> 1, (frame & 1) as u32);
    if octave < 12 {
        // Slow rates go by a counter of pairs of frames: one step each time so many low bits become zero,
        // further ones for the quarters when more do.
        return match (octave + pair.trailing_zeros(), second) {
            (11, 1) => 1,
            (12, 1) => quarters >> 1,
            (13, 1) => quarters & 1,
            _ => 0,
        };
    }
    let more = match (pair & 3, quarters) {
        (0, 1..) | (2, 2..) | (1, 3) => 1,
        _ => 0,
    };
    match octave - 12 + more {
        0 => second,
        step => step.min(3),
    }
}

impl Operator {
    /// Its key went down: from silence or out of its release.
    fn key_on(&mut self, patch: &Patch) {
        self.stage = Stage::Attack;
        self.phase = 0;
        if patch.rates[0] >= 60 {
            self.attenuation = 0;
        }
    }

    fn audible(&self) -> bool {
        self.attenuation < INAUDIBLE
    }

    fn decayed(&self, patch: &Patch) -> bool {
        self.attenuation & !15 == patch.sustain_level
    }

    /// Whether its envelope stays where it is as long as the registers do.
    fn rests(&self, patch: &Patch) -> bool {
        let rate = patch.rates[self.stage as usize];
        match self.stage {
            Stage::Attack => rate == 0 || rate >= 60 && self.attenuation != 0,
            _ if !self.audible() => true,
            Stage::Decay => rate == 0 && !self.decayed(patch),
            _ => rate == 0,
        }
    }

    fn envelope(&mut self, patch: &Patch, frame: u64) {
        let rate = patch.rates[self.stage as usize];
        let step = envelope_step(rate, frame);
        if self.stage == Stage::Attack {
            if self.attenuation == 0 {
                self.stage = Stage::Decay;
            } else if step > 0 && rate < 60 {
                self.attenuation -= (self.attenuation >> (4 - step)) + 1;
            }
            return;
        }
        if !self.audible() {
            self.attenuation = OFF;
        } else if self.stage == Stage::Decay && self.decayed(patch) {
            self.stage = Stage::Sustain;
        } else if step > 0 {
            self.attenuation = (self.attenuation + (1 << (step - 1))).min(OFF);
        }
    }
}

impl Voices {
    /// Plays as many frames as there are in `out`, left and right; `keys` has a bit for each operator.
    /// Answers whether anything can still be heard, now or later, if no register changes.
    pub fn play(
        &mut self,
        registers: &[u8; REGISTERS],
        keys: u64,
        gains: (f32, f32),
        out: &mut [[i16; 2]],
    ) -> bool {
        let registers = Registers(registers);
        let patches: [Patch; OPERATORS] = std::array::from_fn(|n| Patch::new(&registers, n));
        for (n, (operator, patch)) in self.operators.iter_mut().zip(&patches).enumerate() {
            match keys >> n & 1 != 0 {
                true if operator.stage == Stage::Release => operator.key_on(patch),
                false => operator.stage = Stage::Release,
                true => {}
            }
        }
        let depths = registers.get(0, 0xBD);
        let mut rest = out;
        while !rest.is_empty() {
            let until_step = (TREMOLO_FRAMES - self.frame % TREMOLO_FRAMES) as usize;
            let (part, later) = rest.split_at_mut(until_step.min(rest.len()));
            self.play_part(&patches, registers.rhythm(), depths, gains, part);
            rest = later;
        }
        let mut both = self.operators.iter().zip(&patches);
        both.any(|(operator, patch)| operator.audible() && patch.heard() || !operator.rests(patch))
    }

    /// Some frames with tremolo and vibrato at one step; `depths`: AM and VIB in bits 7 and 6.
    fn play_part(
        &mut self,
        patches: &[Patch; OPERATORS],
        rhythm: bool,
        depths: u32,
        gains: (f32, f32),
        out: &mut [[i16; 2]],
    ) {
        let tables = &*TABLES;
        let step = self.frame / TREMOLO_FRAMES % TREMOLO_STEPS;
        let triangle = step.min(TREMOLO_STEPS - step) as u32;
        let tremolo = triangle >> if depths & 0x80 != 0 { 2 } else { 4 };
        let vibrato_step = (self.frame / VIBRATO_FRAMES) & 7;
        let increments = patches
            .each_ref()
            .map(|patch| patch.increment(vibrato_step, depths & 0x40 != 0));
        for frame in out {
            let drums = if rhythm { self.drum_phases() } else { [0; 3] };
            let (mut left, mut right) = (0, 0);
            for (n, patch) in patches.iter().enumerate() {
                let modulation = self.modulation(n, patch.modulation);
                let operator = &mut self.operators[n];
                let phase = match patch.kind {
                    Kind::Tone => operator.phase >> 9,
                    kind => drums[kind as usize - 1],
                };
                operator.phase = (operator.phase + increments[n]) & PHASE_MASK;
                let attenuation =
                    operator.attenuation + patch.level + if patch.tremolo { tremolo } else { 0 };
                let sample = if operator.audible() {
                    let phase = phase.wrapping_add_signed(modulation);
                    tables.wave(patch.waveform, phase & 0x3FF, attenuation)
                } else {
                    0
                };
                operator.envelope(patch, self.frame);
                operator.output = [sample, operator.output[0]];
                left += patch.left * sample;
                right += patch.right * sample;
            }
            *frame = [scaled(left, gains.0), scaled(right, gains.1)];
            self.frame += 1;
        }
    }

    fn modulation(&self, number: usize, modulation: Modulation) -> i32 {
        match modulation {
            Modulation::None => 0,
            Modulation::Feedback(shift) => {
                let [last, before] = self.operators[number].output;
                (last + before) >> shift
            }
            Modulation::From(other) => self.operators[other].output[0],
        }
    }

    /// Phases of hi-hat, snare drum and cymbal: bits of two counters, mixed with noise.
    fn drum_phases(&mut self) -> [u32; 3] {
        let hi_hat = self.operators[HI_HAT].phase >> 9;
        let cymbal = self.operators[CYMBAL].phase >> 9;
        let bit = |phase: u32, number: u32| phase >> number & 1;
        let metal = (bit(hi_hat, 2) ^ bit(hi_hat, 7))
            | (bit(hi_hat, 3) ^ bit(cymbal, 5))
            | (bit(cymbal, 3) ^ bit(cymbal, 5));
        self.shift_noise(HI_HAT);
        let hi_hat_noise = self.noise & 1;
        self.shift_noise(SNARE - HI_HAT);
        let snare_noise = self.noise & 1;
        self.shift_noise(OPERATORS - SNARE);
        let fine = if metal ^ hi_hat_noise != 0 {
            0xD0
        } else {
            0x34
        };
        let half = bit(hi_hat, 8);
        [
            metal << 9 | fine,
            half << 9 | (half ^ snare_noise) << 8,
            metal << 9 | 0x80,
        ]
    }

    /// The noise goes on a bit with each operator.
    fn shift_noise(&mut self, bits: usize) {
        for _ in 0..bits {
            let new = (self.noise >> 14 ^ self.noise) & 1;
            self.noise = self.noise >> 1 | new << 22;
        }
    }
}

/// What the converter takes of a sum of operators, louder or softer.
fn scaled(sum: i32, gain: f32) -> i16 {
    let sample = sum.clamp(i16::MIN.into(), i16::MAX.into());
    (sample as f32 * gain).round() as i16
}

#[cfg(test)]
mod tests;
