//! Ring3's own guest, which runs loops in every mode.

use super::devices::{IMAGE, PARAMETERS, RAM_BYTES, write};
use engine::state::gpr;
use engine::vcpu::Vcpu;
use std::path::PathBuf;
use std::process::Command;

/// Without anything to print on.
pub fn load(v: &mut Vcpu) {
    let image = assembled_guest();
    write(v, IMAGE, &image);
    v.cpu.gpr[gpr::RAX] = 0x2BAD_B002;
    v.cpu.gpr[gpr::RBX] = PARAMETERS;
    // Flags: memory information only.
    write(v, PARAMETERS, &1u32.to_le_bytes());
    write(v, PARAMETERS + 4, &640u32.to_le_bytes());
    write(
        v,
        PARAMETERS + 8,
        &(((RAM_BYTES - IMAGE) >> 10) as u32).to_le_bytes(),
    );
    v.cpu.rip = multiboot_entry(&image);
}

/// `entry_addr` of the Multiboot header.
fn multiboot_entry(image: &[u8]) -> u64 {
    let header = image
        .windows(4)
        .position(|w| w == 0x1BAD_B002u32.to_le_bytes())
        .expect("a Multiboot header");
    let field: [u8; 4] = image[header + 28..header + 32].try_into().expect("4 bytes");
    u32::from_le_bytes(field) as u64
}

fn assembled_guest() -> Vec<u8> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../guests/embedded");
    let unique = format!("ring3-lockstep-{:?}", std::thread::current().id());
    let output = std::env::temp_dir().join(unique.replace(['(', ')'], "-"));
    let ran = Command::new("nasm")
        .args(["-f", "bin", "-o"])
        .arg(&output)
        .arg(format!("-I{}/", source.display()))
        .arg(source.join("guest.asm"))
        .status()
        .expect("nasm, which `scripts/setup test` installs");
    assert!(ran.success(), "the embedded guest could not be assembled");
    let image = std::fs::read(&output).expect("NASM's output");
    let _ = std::fs::remove_file(output);
    image
}
