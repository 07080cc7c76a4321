//! I/O ports: IN, OUT and the permission to use them (SDM vol. 1, 19.5).

use crate::fault::Fault;
use crate::io::CallRegisters;
use crate::state::{attr, gpr};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic};

/// Offset of the I/O map base address in a 32-bit or 64-bit TSS.
const IO_MAP_BASE: u64 = 102;

impl Vcpu {
    /// #GP(0) unless the current privilege may use `size` ports from `port` on.
    pub(super) fn check_port(&mut self, port: u16, size: usize) -> Result<(), Fault> {
        let restricted = self.cpu.protected() && (self.cpu.v86() || self.cpu.cpl > self.cpu.iopl());
        if !restricted || self.bitmap_permits(port, size)? {
            return Ok(());
        }
        Err(Fault::GP0)
    }

    /// Whether the I/O permission bitmap of the TSS has the bits of all ports clear.
    fn bitmap_permits(&mut self, port: u16, size: usize) -> Result<bool, Fault> {
        let tr = self.cpu.tr;
        let kind = tr.attributes & attr::TYPE;
        // Only 32-bit and 64-bit TSSs (type 9 or, busy, 11) have a bitmap.
        if kind | 2 != 0xB || (tr.limit as u64) < IO_MAP_BASE + 1 {
            return Ok(false);
        }
        let at = self.wrap_linear(tr.base.wrapping_add(IO_MAP_BASE));
        let map = self.read_linear(at, 2, false)?;
        let first = map + port as u64 / 8;
        // The processor reads two bytes, whether it needs the second or not.
        if first + 1 > tr.limit as u64 {
            return Ok(false);
        }
        let at = self.wrap_linear(tr.base.wrapping_add(first));
        let bits = self.read_linear(at, 2, false)?;
        Ok(bits >> (port % 8) & ((1 << size) - 1) == 0)
    }

    /// Reads `size` bytes (1, 2 or 4) from a port; `check_port` comes before.
    pub(super) fn port_read(&mut self, port: u16, size: usize) -> u64 {
        self.stats.port_accesses += 1;
        self.note_port_access(port, size);
        self.vm.io.port_read(port, size as u8) as u64
    }

    /// Writes `size` bytes (1, 2 or 4) to a port; `check_port` comes before.
    pub(super) fn port_write(&mut self, port: u16, size: usize, value: u64) {
        self.stats.port_accesses += 1;
        self.note_port_access(port, size);
        self.vm.io.port_write(port, size as u8, value as u32);
    }

    /// Fills `buffer` from a port, `size` bytes an access; `check_port` comes before.
    pub(super) fn port_read_string(&mut self, port: u16, size: usize, buffer: &mut [u8]) {
        self.stats.port_accesses += (buffer.len() / size) as u64;
        self.note_port_access(port, size);
        self.vm.io.port_read_string(port, size as u8, buffer);
    }

    /// Writes `data` to a port, `size` bytes an access; `check_port` comes before.
    pub(super) fn port_write_string(&mut self, port: u16, size: usize, data: &[u8]) {
        self.stats.port_accesses += (data.len() / size) as u64;
        self.note_port_access(port, size);
        self.vm.io.port_write_string(port, size as u8, data);
    }
}

/// The general registers that a gateway takes and returns.
const CALL_REGISTERS: [usize; 7] = [
    gpr::RAX,
    gpr::RBX,
    gpr::RCX,
    gpr::RDX,
    gpr::RSI,
    gpr::RDI,
    gpr::RBP,
];

/// Calls the gateway that an IN of 32 bits means, if it does; see `io::Gateway`.
fn call_gateway(v: &mut Vcpu, port: u16) -> bool {
    let Some(gateway) = v.vm.io.gateway(port, v.cpu.gpr[gpr::RAX] as u32) else {
        return false;
    };
    let before: CallRegisters = CALL_REGISTERS.map(|index| v.cpu.gpr[index] as u32);
    let mut after = before;
    if !gateway.call(&mut after, v.cpu.cpl) {
        return false;
    }
    v.stats.port_accesses += 1;
    for ((index, new), old) in CALL_REGISTERS.into_iter().zip(after).zip(before) {
        // What a call leaves alone keeps its upper half in 64-bit mode.
        if new != old {
            v.set_gpr(index, 4, new as u64);
        }
    }
    true
}

/// IN and OUT.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let output = insn.mnemonic() == Mnemonic::Out;
    let (port, register) = if output { (0, 1) } else { (1, 0) };
    let port = v.read_operand(insn, port)? as u16;
    let size = v.size_of(insn, register);
    let register = insn.op_register(register);
    if !output && size == 4 && call_gateway(v, port) {
        return Ok(());
    }
    v.check_port(port, size)?;
    if output {
        v.port_write(port, size, v.reg(register));
    } else {
        let value = v.port_read(port, size);
        v.set_reg(register, value);
    }
    Ok(())
}
