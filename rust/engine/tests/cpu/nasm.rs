//! NASM, for tests that are read better as assembly.

use std::process::Command;

/// The flat binary of `source`; `name` shows in error messages.
pub fn assemble(name: &str, source: &str) -> Vec<u8> {
    let unique = format!(
        "ring3-{name}-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let base = std::env::temp_dir().join(unique.replace(['(', ')'], "-"));
    let (asm, bin) = (base.with_extension("asm"), base.with_extension("bin"));
    std::fs::write(&asm, source).expect("a temporary file");
    let ran = Command::new("nasm")
        .args(["-f", "bin", "-o"])
        .args([&bin, &asm])
        .output()
        .expect("nasm, which `scripts/setup test` installs");
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{name}: {errors}\n{source}");
    let image = std::fs::read(&bin).expect("NASM's output");
    let _ = (std::fs::remove_file(asm), std::fs::remove_file(bin));
    image
}
