//! The port and MMIO maps: which device answers an address.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// A device behind ports or an MMIO window.  Offsets count from the window's start; sizes are in
/// bytes (1, 2, 4 or, for MMIO, 8) and never above the window's `width`.
pub trait Device: Send + Sync {
    fn read(&self, offset: u64, size: u8) -> u64;
    fn write(&self, offset: u64, size: u8, value: u64);

    /// Reads the same register again and again, `size` bytes each time: what INS with a count does.
    fn read_string(&self, offset: u64, size: u8, buffer: &mut [u8]) {
        read_elements(size, buffer, || self.read(offset, size));
    }

    /// Writes the same register again and again: OUTS with a count.
    fn write_string(&self, offset: u64, size: u8, data: &[u8]) {
        write_elements(size, data, |value| self.write(offset, size, value));
    }
}

/// Fills `buffer` with elements of `size` bytes, one call each.
pub fn read_elements(size: u8, buffer: &mut [u8], mut read: impl FnMut() -> u64) {
    for element in buffer.chunks_mut(size as usize) {
        let value = read().to_le_bytes();
        element.copy_from_slice(&value[..element.len()]);
    }
}

/// Hands on `data` as elements of `size` bytes, one call each.
pub fn write_elements(size: u8, data: &[u8], mut write: impl FnMut(u64)) {
    for element in data.chunks(size as usize) {
        write(little_endian(element));
    }
}

/// The value of at most eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | byte as u64)
}

/// EAX, EBX, ECX, EDX, ESI, EDI, EBP.
pub type CallRegisters = [u32; 7];

/// Functions of the machine that guests call by IN EAX, DX at a port, with a magic number in EAX:
/// VMware's backdoor.  They take and return general registers, and any privilege may call them.
pub trait Gateway: Send + Sync {
    /// Whether `registers` mean one of its functions and now hold its result; if not, they are
    /// left alone and the instruction is an access to the port like any other.
    fn call(&self, registers: &mut CallRegisters, cpl: u8) -> bool;
}

#[derive(Clone)]
struct Window {
    first: u64,
    count: u64,
    width: u8,
    device: Arc<dyn Device>,
}

/// Sorted, disjoint windows.
#[derive(Default)]
struct Windows(Vec<Window>);

impl Windows {
    fn find(&self, address: u64) -> Option<&Window> {
        let i = self.0.partition_point(|w| w.first <= address);
        let w = &self.0[i.checked_sub(1)?];
        (address - w.first < w.count).then_some(w)
    }

    fn insert(&mut self, window: Window) -> Result<(), Overlap> {
        let i = self.0.partition_point(|w| w.first < window.first);
        let free_after = self
            .0
            .get(i)
            .is_none_or(|w| w.first - window.first >= window.count);
        let free_before = i == 0 || window.first - self.0[i - 1].first >= self.0[i - 1].count;
        if !free_after || !free_before {
            return Err(Overlap);
        }
        self.0.insert(i, window);
        Ok(())
    }

    fn remove(&mut self, first: u64, count: u64) {
        self.0.retain(|w| w.first != first || w.count != count);
    }
}

/// The range touches one that is already mapped.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlap;

#[derive(Default)]
pub struct IoMap {
    ports: RwLock<Windows>,
    mmio: RwLock<Windows>,
    /// Magic number, port and 1 of the gateway, or 0: what to look at before taking the lock.
    gateway_key: AtomicU64,
    gateway: RwLock<Option<Arc<dyn Gateway>>>,
}

fn gateway_key(port: u16, magic: u32) -> u64 {
    (magic as u64) << 32 | (port as u64) << 8 | 1
}

/// The value a bus without an answering device reads: all ones.
pub fn open_bus(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * size as u32)
}

fn lock_read(windows: &RwLock<Windows>) -> std::sync::RwLockReadGuard<'_, Windows> {
    windows
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn lock_write(windows: &RwLock<Windows>) -> std::sync::RwLockWriteGuard<'_, Windows> {
    windows
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Reads `size` bytes at `address`, split to what each window takes.
fn read(windows: &RwLock<Windows>, address: u64, size: u8) -> u64 {
    // The guard is not held while a device runs: a device may map and unmap windows.
    let found = lock_read(windows).find(address).cloned();
    let Some(w) = found else {
        if size == 1 {
            return 0xFF;
        }
        return split(size, |i| read(windows, address.wrapping_add(i as u64), 1));
    };
    let offset = address - w.first;
    if size <= w.width && offset + size as u64 <= w.count {
        return w.device.read(offset, size) & open_bus(size);
    }
    let half = size / 2;
    let low = read(windows, address, half);
    low | read(windows, address.wrapping_add(half as u64), half) << (8 * half as u32)
}

fn split(size: u8, byte: impl Fn(u8) -> u64) -> u64 {
    (0..size).fold(0, |value, i| value | byte(i) << (8 * i as u32))
}

/// The device that takes an access of `size` bytes in one piece, and the port's offset in its window.
fn whole(windows: &RwLock<Windows>, port: u16, size: u8) -> Option<(Arc<dyn Device>, u64)> {
    let found = lock_read(windows).find(port as u64).cloned()?;
    let offset = port as u64 - found.first;
    (size <= found.width && offset + size as u64 <= found.count).then_some((found.device, offset))
}

fn write(windows: &RwLock<Windows>, address: u64, size: u8, value: u64) {
    let found = lock_read(windows).find(address).cloned();
    let Some(w) = found else {
        for i in 0..size {
            if size > 1 {
                write(
                    windows,
                    address.wrapping_add(i as u64),
                    1,
                    value >> (8 * i as u32) & 0xFF,
                );
            }
        }
        return;
    };
    let offset = address - w.first;
    if size <= w.width && offset + size as u64 <= w.count {
        return w.device.write(offset, size, value & open_bus(size));
    }
    let half = size / 2;
    write(windows, address, half, value & open_bus(half));
    write(
        windows,
        address.wrapping_add(half as u64),
        half,
        value >> (8 * half as u32),
    );
}

impl IoMap {
    pub fn map_ports(
        &self,
        first: u16,
        count: u32,
        width: u8,
        device: Arc<dyn Device>,
    ) -> Result<(), Overlap> {
        let window = Window {
            first: first as u64,
            count: count as u64,
            width,
            device,
        };
        lock_write(&self.ports).insert(window)
    }

    pub fn unmap_ports(&self, first: u16, count: u32) {
        lock_write(&self.ports).remove(first as u64, count as u64);
    }

    pub fn map_mmio(
        &self,
        first: u64,
        count: u64,
        width: u8,
        device: Arc<dyn Device>,
    ) -> Result<(), Overlap> {
        lock_write(&self.mmio).insert(Window {
            first,
            count,
            width,
            device,
        })
    }

    pub fn unmap_mmio(&self, first: u64, count: u64) {
        lock_write(&self.mmio).remove(first, count);
    }

    pub fn port_read(&self, port: u16, size: u8) -> u32 {
        read(&self.ports, port as u64, size) as u32
    }

    pub fn port_write(&self, port: u16, size: u8, value: u32) {
        write(&self.ports, port as u64, size, value as u64);
    }

    /// The one gateway there is from now on; None: none.
    pub fn set_gateway(&self, port: u16, magic: u32, gateway: Option<Arc<dyn Gateway>>) {
        let key = if gateway.is_some() {
            gateway_key(port, magic)
        } else {
            0
        };
        self.gateway_key.store(key, Ordering::Release);
        let old = {
            let mut slot = self.gateway.write().unwrap_or_else(|e| e.into_inner());
            std::mem::replace(&mut *slot, gateway)
        };
        // Outside of the lock: dropping it may run foreign code.
        drop(old);
    }

    /// The gateway that IN EAX, DX means with these in EAX and DX.
    pub fn gateway(&self, port: u16, eax: u32) -> Option<Arc<dyn Gateway>> {
        if self.gateway_key.load(Ordering::Acquire) != gateway_key(port, eax) {
            return None;
        }
        let slot = self.gateway.read().unwrap_or_else(|e| e.into_inner());
        slot.clone()
    }

    /// Fills `buffer` from one port, `size` bytes an access.
    pub fn port_read_string(&self, port: u16, size: u8, buffer: &mut [u8]) {
        if let Some((device, offset)) = whole(&self.ports, port, size) {
            return device.read_string(offset, size, buffer);
        }
        read_elements(size, buffer, || self.port_read(port, size) as u64);
    }

    /// Writes `data` to one port, `size` bytes an access.
    pub fn port_write_string(&self, port: u16, size: u8, data: &[u8]) {
        if let Some((device, offset)) = whole(&self.ports, port, size) {
            return device.write_string(offset, size, data);
        }
        write_elements(size, data, |value| {
            self.port_write(port, size, value as u32)
        });
    }

    pub fn mmio_read(&self, address: u64, size: u8) -> u64 {
        read(&self.mmio, address, size)
    }

    pub fn mmio_write(&self, address: u64, size: u8, value: u64) {
        write(&self.mmio, address, size, value);
    }

    /// Whether a page overlaps an MMIO window (which then hides RAM below it).
    pub fn page_has_mmio(&self, page: u64) -> bool {
        let windows = lock_read(&self.mmio);
        let i = windows.0.partition_point(|w| w.first < page + 4096);
        i > 0 && page < windows.0[i - 1].first + windows.0[i - 1].count
    }
}
