//! Linux, from its decompressor on or as the decompressed kernel with a user space.

use super::devices::{IMAGE, PARAMETERS, RAM_BYTES, write};
use engine::state::{attr, cr0, cr4, efer, gpr, seg};
use engine::vcpu::Vcpu;
use std::io::Write;
use std::process::{Command, Stdio};

const COMMAND_LINE: u64 = 0x9_2000;
const PAGE_TABLES: u64 = 0x7_0000;
const INITRD: u64 = RAM_BYTES - (16 << 20);
/// No device but those there are, no time but the timer's; ends by a triple fault.
const PARAMETERS_TEXT: &[u8] = b"nokaslr nowatchdog nolapic noapic acpi=off pci=off no_timer_check lpj=4096 \
    tsc_early_khz=2000000 tsc=unstable clocksource=jiffies reboot=t panic=-1 i8042.nokbd i8042.noaux \
    earlycon=uart8250,io,0x3f8,115200n8 keep_bootcon 8250.nr_uarts=0 no_hash_pointers\0";

/// Linux's 32-bit boot protocol (its Documentation/arch/x86/boot.rst).
pub fn load(v: &mut Vcpu, image: &[u8]) {
    write(v, IMAGE, protected_mode_part(image));
    hand_over(v, image, b"nokaslr\0", &[]);
}

fn protected_mode_part(image: &[u8]) -> &[u8] {
    let setup_sectors = match image[0x1F1] {
        0 => 4,
        n => usize::from(n),
    };
    &image[(setup_sectors + 1) * 512..]
}

/// The zero page, with what it names.
fn hand_over(v: &mut Vcpu, image: &[u8], command_line: &[u8], initrd: &[u8]) {
    let mut zero_page = vec![0u8; 4096];
    let header_end = 0x202 + usize::from(image[0x201]);
    zero_page[0x1F1..header_end].copy_from_slice(&image[0x1F1..header_end]);
    zero_page[0x210] = 0xFF;
    zero_page[0x228..0x22C].copy_from_slice(&(COMMAND_LINE as u32).to_le_bytes());
    let map = [(0, PARAMETERS, 1u32), (IMAGE, RAM_BYTES - IMAGE, 1)];
    zero_page[0x1E8] = map.len() as u8;
    for (i, (base, bytes, kind)) in map.iter().enumerate() {
        let at = 0x2D0 + 20 * i;
        zero_page[at..at + 8].copy_from_slice(&base.to_le_bytes());
        zero_page[at + 8..at + 16].copy_from_slice(&bytes.to_le_bytes());
        zero_page[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
    }
    zero_page[0x218..0x21C].copy_from_slice(&(INITRD as u32).to_le_bytes());
    zero_page[0x21C..0x220].copy_from_slice(&(initrd.len() as u32).to_le_bytes());
    write(v, PARAMETERS, &zero_page);
    write(v, INITRD, initrd);
    write(v, COMMAND_LINE, command_line);
    v.cpu.gpr[gpr::RSI] = PARAMETERS;
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a whole field")
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(field(bytes, at)) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(field(bytes, at)) as usize
}

/// The ELF file in a bzImage.
pub fn decompressed(image: &[u8]) -> Vec<u8> {
    let (offset, length) = (u32_at(image, 0x248), u32_at(image, 0x24C));
    let payload = protected_mode_part(image)[offset..offset + length].to_vec();
    let mut xz = Command::new("xz")
        .args(["--single-stream", "-dc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xz");
    let mut input = xz.stdin.take().expect("a pipe");
    let feeding = std::thread::spawn(move || input.write_all(&payload));
    let output = xz.wait_with_output().expect("xz's output");
    let _ = feeding.join();
    assert!(
        output.stdout.starts_with(b"\x7FELF"),
        "no XZ-compressed kernel"
    );
    output.stdout
}

/// The kernel `elf` of the bzImage `image` at its entry.
pub fn load_kernel(v: &mut Vcpu, image: &[u8], elf: &[u8], initrd: &[u8]) {
    let wide = elf[4] == 2;
    let (entry, headers, size, count) = if wide {
        (u64_at(elf, 24), u64_at(elf, 32), 56, 56)
    } else {
        (u32_at(elf, 24), u32_at(elf, 28), 32, 44)
    };
    for i in 0..usize::from(u16::from_le_bytes(field(elf, count))) {
        let header = &elf[headers + i * size..];
        let (offset, to, bytes) = if wide {
            (u64_at(header, 8), u64_at(header, 24), u64_at(header, 32))
        } else {
            (u32_at(header, 4), u32_at(header, 12), u32_at(header, 16))
        };
        if u32_at(header, 0) == 1 {
            write(v, to as u64, &elf[offset..offset + bytes]);
        }
    }
    hand_over(v, image, PARAMETERS_TEXT, initrd);
    v.cpu.rip = entry as u64;
    if wide {
        enter_long_mode(v);
    }
}

/// The 64-bit boot protocol's state: the first GiB mapped to itself.
fn enter_long_mode(v: &mut Vcpu) {
    write(v, PAGE_TABLES, &((PAGE_TABLES + 0x1000) | 7).to_le_bytes());
    write(
        v,
        PAGE_TABLES + 0x1000,
        &((PAGE_TABLES + 0x2000) | 7).to_le_bytes(),
    );
    for i in 0..512 {
        let entry = i << 21 | 0x87;
        write(v, PAGE_TABLES + 0x2000 + 8 * i, &entry.to_le_bytes());
    }
    let cpu = &mut *v.cpu;
    cpu.cr3 = PAGE_TABLES;
    cpu.cr4 |= cr4::PAE;
    cpu.efer |= efer::LME | efer::LMA;
    cpu.cr0 |= cr0::PG;
    let cs = &mut cpu.seg[seg::CS];
    cs.attributes = cs.attributes & !attr::DB | attr::L;
    v.flush_tlb_all();
}

const INIT: &[u8] = br#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
seq 1 3000 > a
A=$(sha256sum < a)
i=0
while [ $i -lt 3 ]; do
  B=$(gzip -c a | gzip -dc | sha256sum)
  [ "$A" = "$B" ] || echo different > /dev/kmsg
  sort -r a | awk '{ s += $1 / 7 } END { print s }' > /dev/kmsg
  i=$((i+1))
done
echo the end > /dev/kmsg
reboot -f
"#;

/// A cpio archive ("newc") for the kernel: BusyBox, and an init that lets it do things.
pub fn initrd(busybox: &[u8]) -> Vec<u8> {
    let entries: [(&str, u32, &[u8]); 6] = [
        ("bin", 0o40755, b""),
        ("dev", 0o40755, b""),
        ("dev/console", 0o20600, b""),
        ("bin/busybox", 0o100755, busybox),
        ("init", 0o100755, INIT),
        ("TRAILER!!!", 0, b""),
    ];
    let mut archive = Vec::new();
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    for (i, (name, mode, data)) in entries.into_iter().enumerate() {
        let device = if mode & 0o170000 == 0o20000 {
            (5, 1)
        } else {
            (0, 0)
        };
        let fields = [
            i as u32 + 1,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        archive.extend_from_slice(b"070701");
        for f in fields {
            archive.extend_from_slice(format!("{f:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        pad(&mut archive);
        archive.extend_from_slice(data);
        pad(&mut archive);
    }
    archive
}
