//! Each instruction twice from the same random state: interpreted, and right in this process.

use super::*;
use iced_x86::Instruction;
use std::arch::asm;

/// An instruction as the host's assembler makes it, and a way to run it on the host.
struct Case {
    text: &'static str,
    code: &'static [u8],
    features: &'static [&'static str],
    host: unsafe fn(&mut Host),
}

/// State that goes into and comes out of the host's run.
#[repr(C, align(64))]
struct Host {
    fpu: XsaveArea,
    /// 64-byte aligned, as the guest's.
    data: [u8; 64],
    gpr: [u64; 3],
    rflags: u64,
}

/// A `Case` for one instruction, which may use RAX, RCX, RDX, memory at RSI, all else but GPRs.
macro_rules! case {
    ($text:literal, $features:expr) => {{
        unsafe fn host(h: &mut Host) {
            let (mask, area) = (host::xcr0(), &raw mut h.fpu);
            let defaults = &raw const fpustate::HOST_DEFAULT;
            // SAFETY: the instruction is `Case`'s; the state is valid and put back.
            unsafe {
                asm!(
                    "mov eax, r12d", "xor edx, edx", "xrstor64 [r8]", "push r11", "popfq",
                    "mov rax, [r9]", "mov rcx, [r9 + 8]", "mov rdx, [r9 + 16]",
                    $text,
                    "mov [r9], rax", "mov [r9 + 8], rcx", "mov [r9 + 16], rdx", "pushfq", "pop r11",
                    "mov eax, r12d", "xor edx, edx", "xsave64 [r8]", "xrstor64 [r10]",
                    in("r8") area, in("r9") &raw mut h.gpr, in("r10") defaults,
                    inout("r11") h.rflags, in("r12") mask, in("rsi") &raw mut h.data,
                    out("rax") _, out("rcx") _, out("rdx") _, clobber_abi("sysv64"),
                );
            }
        }
        let (start, end): (*const u8, *const u8);
        // SAFETY: takes the addresses of two labels and jumps over what is between them.
        unsafe {
            asm!("lea {0}, [rip + 2f]", "lea {1}, [rip + 3f]", "jmp 3f", "2:", $text, "3:",
                out(reg) start, out(reg) end);
        }
        // SAFETY: code between the labels, in this program's text.
        let code = unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) };
        Case { text: $text, code, features: $features, host }
    }};
}

fn host_has(feature: &str) -> bool {
    match feature {
        "avx512" => has(component::AVX512) && is_x86_feature_detected!("avx512bw"),
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "sse4.2" => is_x86_feature_detected!("sse4.2"),
        "aes" => is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq"),
        "sha" => is_x86_feature_detected!("sha"),
        "gfni" => is_x86_feature_detected!("gfni"),
        "vaes" => is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq"),
        other => panic!("feature {other}"),
    }
}

/// Random registers: vectors, opmasks, MMX/x87 of moderate size, MXCSR and FCW masked.
pub(super) fn random_image(random: &mut Random) -> XsaveArea {
    let mut image = XsaveArea([0; XSAVE_BYTES]);
    image.set_control_and_status(0x37F, (random.next() as u16 & 7) << 11);
    image.set_u16(legacy::TAGS, 0xFF);
    image.set_mxcsr(0x1F80 | (random.next() as u32 & 0xE040));
    for n in 0..32 {
        let mut value = [0; 64];
        for lane in value.chunks_exact_mut(4) {
            let bits = match random.next() & 3 {
                0 => random.next() as u32,
                1 => (random.next() as i32 as f32 / 65536.0).to_bits(),
                2 => (random.next() & 0xF) as u32,
                _ => 0x3F80_0000 | (random.next() as u32 & 0x7F_FFFF),
            };
            lane.copy_from_slice(&bits.to_le_bytes());
        }
        image.set_vector(n, &value);
    }
    for k in 0..8 {
        image.set_opmask(k, random.next());
        let mut st = [0; 10];
        random.fill(&mut st[..8]);
        st[7] |= 0x80;
        st[8..].copy_from_slice(&(0x3FFF + (random.next() & 7) as u16).to_le_bytes());
        image.set_st(k, &st);
    }
    fpustate::prepare(&mut image);
    image
}

/// The image without what isn't the guest's: header, MXCSR_MASK, recorded pointers.
pub(super) fn visible(image: &XsaveArea) -> Vec<u8> {
    let mut bytes = image.0.to_vec();
    bytes[legacy::FOP..legacy::MXCSR].fill(0);
    bytes[legacy::MXCSR_MASK..legacy::ST].fill(0);
    bytes[legacy::BYTES..legacy::HEADER_END].fill(0);
    bytes
}

/// Whether the code, decoded as 32-bit code, is the same instruction on the same registers.
fn is_same_in_32_bits(code: &[u8]) -> bool {
    let decode = |bits| Decoder::with_ip(bits, code, 0, DecoderOptions::NONE).decode();
    let (wide, narrow) = (decode(64), decode(32));
    let operand = |i: &Instruction, n| (i.op_kind(n), i.op_register(n));
    let mut operands = 0..wide.op_count();
    wide.code() == narrow.code()
        && wide.len() == narrow.len()
        && operands.all(|n| operand(&wide, n) == operand(&narrow, n))
}

fn compare(case: &Case) {
    if !case.features.iter().all(|f| host_has(f)) {
        return;
    }
    compare_in(long_mode(), case);
    // VZEROUPPER and VZEROALL leave registers alone that 32-bit mode hasn't.
    if is_same_in_32_bits(case.code) && !case.text.starts_with("vzero") {
        compare_in(protected_mode(), case);
    }
}

fn compare_in(mut v: Vcpu, case: &Case) {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..40 {
        let mut h = Host {
            fpu: random_image(&mut random),
            gpr: [random.next(), random.next(), random.next()],
            rflags: flags::FIXED | random.next() & flags::ARITHMETIC,
            data: [0; 64],
        };
        random.fill(&mut h.data);
        v.cpu.fpu = h.fpu.clone();
        v.cpu.gpr[..3].copy_from_slice(&h.gpr);
        v.cpu.rflags = h.rflags;
        poke(&v, DATA, &h.data);
        run(&mut v, case.code).unwrap_or_else(|f| panic!("{}: {f:?}", case.text));
        // SAFETY: one instruction on valid state.
        unsafe { (case.host)(&mut h) };
        assert!(
            visible(&v.cpu.fpu) == visible(&h.fpu),
            "{}: registers",
            case.text
        );
        assert_eq!(v.cpu.gpr[..3], h.gpr, "{}: general registers", case.text);
        let arithmetic = |f: u64| f & flags::ARITHMETIC;
        assert_eq!(
            arithmetic(v.cpu.rflags),
            arithmetic(h.rflags),
            "{}: flags",
            case.text
        );
        assert_eq!(peek::<64>(&v, DATA), h.data, "{}: memory", case.text);
    }
}

macro_rules! family {
    ($name:ident $features:tt $($text:literal)*) => {
        #[test]
        fn $name() {
            $(compare(&case!($text, &$features));)*
        }
    };
}

family! { x87_computes_as_the_host_does []
    "fld dword ptr [rsi]" "fld qword ptr [rsi]" "fld tbyte ptr [rsi]" "fild word ptr [rsi]"
    "fild qword ptr [rsi]" "fbld [rsi]" "fstp tbyte ptr [rsi]" "fst dword ptr [rsi]"
    "fistp dword ptr [rsi]" "fisttp qword ptr [rsi]" "fbstp [rsi]" "fadd st, st(1)"
    "fmulp st(1), st" "fdivr dword ptr [rsi]" "fsqrt" "fsin" "fcos" "fptan" "fpatan" "f2xm1"
    "fyl2x" "fprem" "fscale" "frndint" "fxtract" "fxch st(3)" "fcomi st, st(1)" "fucomip st, st(2)"
    "fcmovb st, st(1)" "fcmovnu st, st(2)" "fldpi" "fchs" "fxam" "fincstp" "ffree st(2)"
    "fnstsw ax" "fnstcw [rsi]" "fnstsw [rsi]" "fnop"
}

family! { mmx_computes_as_the_host_does []
    "paddb mm0, mm1" "pmullw mm3, [rsi]" "punpcklbw mm0, dword ptr [rsi]" "movd mm2, eax"
    "movq rax, mm5" "psrlq mm1, 5" "emms" "pshufw mm1, [rsi], 27" "pmovmskb ecx, mm3"
    "movntq [rsi], mm6" "cvtpi2ps xmm1, [rsi]" "cvtps2pi mm1, xmm2" "movq2dq xmm1, mm2"
    "movdq2q mm2, xmm1" "pshufb mm0, mm1" "pextrw edx, mm3, 2"
}

family! { sse_computes_as_the_host_does []
    "addps xmm0, xmm1" "addps xmm0, [rsi]" "mulsd xmm2, qword ptr [rsi]" "divss xmm1, xmm9"
    "sqrtpd xmm3, [rsi]" "rcpps xmm1, xmm2" "rsqrtss xmm1, xmm2" "comiss xmm0, xmm1"
    "ucomisd xmm0, qword ptr [rsi]" "cvtsi2sd xmm1, rax" "cvttsd2si rcx, xmm1"
    "cvtss2si edx, dword ptr [rsi]" "movmskps eax, xmm2" "pmovmskb ecx, xmm15"
    "movd xmm4, ecx" "movq rdx, xmm3" "movups [rsi + 3], xmm3" "movaps [rsi + 16], xmm3"
    "movlps xmm1, [rsi]" "movhpd [rsi], xmm2" "movss xmm1, dword ptr [rsi]" "movsd xmm1, xmm2"
    "shufps xmm1, xmm2, 0x39" "pshufd xmm1, [rsi], 0x1b" "psadbw xmm1, xmm2" "pmaddwd xmm3, [rsi]"
    "packsswb xmm1, xmm2" "cmpltps xmm1, xmm2" "cvtdq2ps xmm1, [rsi]" "cvtps2pd xmm1, [rsi]"
    "haddps xmm1, xmm2" "addsubpd xmm1, [rsi]" "lddqu xmm1, [rsi + 1]" "movddup xmm1, [rsi]"
    "palignr xmm1, xmm2, 5" "phaddsw xmm1, [rsi]" "pabsd xmm1, xmm2" "psllq xmm1, [rsi]"
}

family! { sse4_computes_as_the_host_does ["sse4.2"]
    "pblendvb xmm1, xmm2, xmm0" "dpps xmm1, xmm2, 0xff" "insertps xmm1, dword ptr [rsi], 0x10"
    "pextrd eax, xmm1, 2" "pextrb byte ptr [rsi], xmm1, 7" "pinsrq xmm1, rcx, 1"
    "extractps dword ptr [rsi], xmm1, 3" "roundps xmm1, xmm2, 1" "ptest xmm1, [rsi]"
    "pmovzxbw xmm1, qword ptr [rsi]" "pmovsxwq xmm1, dword ptr [rsi]" "mpsadbw xmm1, xmm2, 5"
    "phminposuw xmm1, xmm2" "pcmpestri xmm1, [rsi + 1], 0x0c" "pcmpistrm xmm1, xmm2, 0x40"
    "pcmpgtq xmm1, xmm2" "movntdqa xmm1, [rsi]"
}

family! { ciphers_and_hashes_compute_as_the_host_does ["aes", "sha"]
    "aesenc xmm1, xmm2" "aesdeclast xmm1, [rsi]" "aeskeygenassist xmm1, xmm2, 3" "aesimc xmm1, xmm2"
    "pclmulqdq xmm1, xmm2, 0x11" "sha1rnds4 xmm1, xmm2, 2" "sha256rnds2 xmm1, xmm2, xmm0"
    "sha256msg1 xmm1, [rsi]"
}

family! { gfni_computes_as_the_host_does ["gfni", "avx512"]
    "gf2p8mulb xmm1, xmm2" "gf2p8affineqb xmm1, [rsi], 3" "vgf2p8affineinvqb zmm1, zmm2, [rsi], 1"
}

family! { avx_computes_as_the_host_does ["avx2", "fma", "f16c"]
    "vaddps ymm1, ymm2, [rsi + 4]" "vdivpd ymm1, ymm2, ymm15" "vaddss xmm1, xmm2, xmm3"
    "vbroadcastss ymm1, dword ptr [rsi]" "vperm2f128 ymm1, ymm2, [rsi], 0x21"
    "vextractf128 [rsi], ymm1, 1" "vmovaps [rsi], ymm3" "vmovups ymm3, [rsi + 5]"
    "vblendvps xmm1, xmm2, xmm3, xmm4" "vtestps ymm1, ymm2" "vcvtsi2sd xmm1, xmm2, rax"
    "vmovmskpd ecx, ymm1" "vpaddd ymm1, ymm2, [rsi]" "vpermd ymm1, ymm2, [rsi]"
    "vpsllvd ymm1, ymm2, ymm3" "vpbroadcastb xmm1, byte ptr [rsi]" "vpmaskmovd ymm1, ymm2, [rsi]"
    "vmaskmovpd [rsi], ymm2, ymm3" "vfmadd213ps ymm1, ymm2, [rsi]" "vfnmsub231sd xmm1, xmm2, xmm3"
    "vcvtph2ps ymm1, [rsi]" "vcvtps2ph [rsi], ymm1, 0" "vzeroupper" "vzeroall"
    "vpinsrw xmm1, xmm2, ecx, 3" "vmovd xmm1, ecx" "vlddqu ymm1, [rsi + 1]"
    "vpcmpestrm xmm1, xmm2, 0x0c"
}

family! { vaes_computes_as_the_host_does ["vaes", "avx512"]
    "vaesenc ymm1, ymm2, ymm3" "vaesdec zmm1, zmm2, [rsi]" "vpclmulqdq zmm1, zmm2, zmm3, 0x10"
}

family! { avx512_computes_as_the_host_does ["avx512"]
    "vaddps zmm1, zmm2, zmm3" "vaddps zmm1{{k1}}, zmm2, [rsi]" "vaddpd zmm1{{k2}}{{z}}, zmm2, qword ptr [rsi]{{1to8}}"
    "vmulps zmm17, zmm31, zmm3, {{rz-sae}}" "vsqrtss xmm1{{k1}}, xmm2, dword ptr [rsi]"
    "vmovups [rsi]{{k1}}, zmm3" "vmovdqu8 [rsi]{{k3}}, zmm20" "vmovdqu32 zmm3{{k1}}{{z}}, [rsi]"
    "vmovdqa64 [rsi], zmm21" "vpcmpud k2{{k1}}, zmm1, [rsi], 1" "vptestmb k3, zmm1, zmm2"
    "kmovq rax, k3" "kmovw k2, word ptr [rsi]" "kmovd dword ptr [rsi], k4" "kandd k1, k2, k3"
    "kortestw k1, k2" "kunpckbw k1, k2, k3" "vpcompressd [rsi]{{k1}}, zmm2" "vpexpandq zmm1{{k1}}, [rsi]"
    "vcompresspd zmm1{{k1}}{{z}}, zmm2" "vpermi2d zmm1, zmm2, [rsi]" "vpternlogd zmm1, zmm2, zmm3, 0x96"
    "vpmovdb [rsi]{{k1}}, zmm1" "vpmovsxbw zmm1{{k1}}, [rsi]" "vbroadcastf32x4 zmm1{{k1}}, [rsi]"
    "vcvtpd2ps ymm1{{k1}}, zmm2" "vcvtps2ph [rsi]{{k1}}, zmm2, 3" "vgetexppd zmm1, zmm2"
    "vrndscaleps zmm1, zmm2, 3" "vscalefpd zmm1, zmm2, zmm3" "vfixupimmps zmm1, zmm2, zmm3, 5"
    "vpconflictd zmm1, zmm2" "vplzcntq zmm1, zmm2" "vextracti32x4 [rsi]{{k1}}, zmm1, 2"
    "vshuff64x2 zmm1, zmm2, zmm3, 0x4e" "vpsrlw zmm1{{k1}}, zmm2, [rsi]" "vpmadd52luq zmm1, zmm2, zmm3"
    "vpdpbusd zmm1{{k1}}, zmm2, [rsi]" "vpshldvq zmm1, zmm2, zmm3" "vpopcntb zmm1{{k1}}, zmm2"
    "vcvtusi2sd xmm1, xmm2, rax" "vcvttss2usi rcx, xmm1" "vrangeps zmm1, zmm2, zmm3, 5"
    "vfpclassps k1{{k2}}, zmm1, 0x81" "vpbroadcastd zmm1{{k1}}, eax" "vpmovm2b zmm1, k3"
}
