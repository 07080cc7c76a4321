"""Small guests that use the machine's chips: what a driver sees when CPU, board and chips work together."""

import subprocess

import pytest

from ring3 import ExitReason, Machine
from ring3.testing.multiboot import entry, multiboot

pytestmark = pytest.mark.guest

PATIENCE_S = 30
ENGINES = ["interp", "translate"]

COMMON = """
        bits 32
        org ORG
        jmp start

; AL to COM1
putc:   push edx
        mov dx, 0x3F8
        out dx, al
        pop edx
        ret

; ESI to COM1 up to its NUL
puts:   lodsb
        test al, al
        jz .end
        call putc
        jmp puts
.end:   ret

off:    mov dx, 0x604
        mov ax, 0x2000                  ; SUS_EN, SUS_TYP 0: S5
        out dx, ax
        hlt
        jmp off

; gate %1 (vector) to handler %2
%macro  gate 2
        mov eax, %2
        mov [idt + 8 * %1], ax
        mov word [idt + 8 * %1 + 2], 0x10
        mov word [idt + 8 * %1 + 4], 0x8E00
        shr eax, 16
        mov [idt + 8 * %1 + 6], ax
%endmacro
"""

END = """
        align 8
idtr:   dw 8 * 256 - 1
        dd idt
        align 8
idt:    times 8 * 256 db 0
        times 4096 db 0
stack:
"""

HELLO = """
start:  mov esp, stack
        mov esi, text
        call puts
        jmp off
text:   db "hello from ring 0", 13, 10, 0
"""

PIC_TICKS = """
start:  mov esp, stack
        gate 0x20, tick
        lidt [idtr]
        mov al, 0x11                    ; ICW1: edge, cascade, ICW4
        out 0x20, al
        mov al, 0x20                    ; ICW2: vector 20h
        out 0x21, al
        mov al, 0x04
        out 0x21, al
        mov al, 0x01
        out 0x21, al
        mov al, 0xFE                    ; IRQ 0 only
        out 0x21, al
        mov al, 0x34                    ; counter 0, mode 2
        out 0x43, al
        mov ax, 1193                    ; 1 ms
        out 0x40, al
        mov al, ah
        out 0x40, al
        sti
.wait:  hlt
        cmp dword [ticks], 50
        jb .wait
        jmp off
tick:   push eax
        inc dword [ticks]
        mov al, 0x20
        out 0x20, al
        pop eax
        iret
ticks:  dd 0
"""

IO_APIC_TICKS = """
start:  mov esp, stack
        gate 0x40, tick
        lidt [idtr]
        mov al, 0xFF                    ; the 8259s are masked
        out 0x21, al
        out 0xA1, al
        mov dword [0xFEE000F0], 0x1FF   ; local APIC on
        mov dword [0xFEC00000], 0x14    ; input 2: vector 40h, edge, fixed, APIC 0
        mov dword [0xFEC00010], 0x40
        mov dword [0xFEC00000], 0x15
        mov dword [0xFEC00010], 0
        mov al, 0x34
        out 0x43, al
        mov ax, 1193
        out 0x40, al
        mov al, ah
        out 0x40, al
        sti
.wait:  hlt
        cmp dword [ticks], 50
        jb .wait
        jmp off
tick:   inc dword [ticks]
        mov dword [0xFEE000B0], 0       ; EOI
        iret
ticks:  dd 0
"""

SCI_THROUGH_IO_APIC = """
start:  mov esp, stack
        gate 0x49, sci
        lidt [idtr]
        mov dword [0xFEE000F0], 0x1FF
        mov dword [0xFEC00000], 0x22    ; input 9: vector 49h, level, fixed, APIC 0
        mov dword [0xFEC00010], 0x8049
        mov dword [0xFEC00000], 0x23
        mov dword [0xFEC00010], 0
        mov al, 0xF1                    ; ACPI on
        out 0xB2, al
        mov dx, 0x602                   ; the power button's event on
        mov ax, 0x100
        out dx, ax
        mov esi, text
        call puts
        sti
.wait:  hlt
        jmp .wait
sci:    mov dx, 0x600
        mov ax, 0x100                   ; acknowledges it
        out dx, ax
        mov dword [0xFEE000B0], 0
        inc dword [events]
        mov esi, pressed
        call puts
        cmp dword [events], 2
        je off
        iret
events: dd 0
text:   db "ready", 10, 0
pressed: db "pressed", 10, 0
"""

ECHO = """
start:  mov esp, stack
        gate 0x24, com1
        lidt [idtr]
        mov al, 0x11
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 0x04
        out 0x21, al
        mov al, 0x01
        out 0x21, al
        mov al, 0xEF                    ; IRQ 4 only
        out 0x21, al
        mov dx, 0x3FB
        mov al, 0x03                    ; LCR: 8N1
        out dx, al
        mov dx, 0x3FC
        mov al, 0x0B                    ; MCR: DTR, RTS, OUT2
        out dx, al
        mov dx, 0x3F9
        mov al, 0x01                    ; IER: received data
        out dx, al
        mov esi, text
        call puts
        sti
.wait:  hlt
        jmp .wait
com1:   mov dx, 0x3F8
        in al, dx
        cmp al, 'q'
        je off
        xor al, 0x20
        call putc
        mov al, 0x20
        out 0x20, al
        iret
text:   db "ready", 10, 0
"""

RESET_ONCE = """
start:  mov esp, stack
        mov esi, text
        call puts
        cmp dword [0x200000], 0x12345678        ; RAM survives a reset
        je off
        mov dword [0x200000], 0x12345678
        HOW
        jmp $
text:   db "started", 10, 0
"""


def assemble(text, tmp_path):
    source, binary = tmp_path / "guest.asm", tmp_path / "guest.bin"
    source.write_text((COMMON + text + END).replace("ORG", hex(entry())))
    subprocess.run(["nasm", "-f", "bin", "-o", binary, source], check=True)
    return multiboot(binary.read_bytes())


@pytest.fixture(params=ENGINES)
def boot(request, tmp_path):
    """boot(text) starts a machine with that guest."""
    machines = []

    def start(text, **settings):
        kernel = assemble(text, tmp_path)
        machines.append(Machine(kernel=kernel, memory="16M", engine=request.param, **settings))
        machines[-1].start()
        return machines[-1]

    yield start
    for machine in machines:
        machine.stop()


def test_a_guest_prints_and_powers_off(boot):
    vm = boot(HELLO)
    assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF
    assert vm.serial[0].output == b"hello from ring 0\r\n"


@pytest.mark.parametrize("text", [PIC_TICKS, IO_APIC_TICKS], ids=["8259", "I/O APIC"])
def test_timer_ticks_arrive_at_their_rate(boot, text):
    vm = boot(text)
    assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF
    assert vm.clock.now() > 49_000_000                      # ns


def test_each_press_of_the_power_button_is_one_level_triggered_interrupt(boot):
    vm = boot(SCI_THROUGH_IO_APIC)
    console = vm.serial[0]
    console.expect("ready", PATIENCE_S)
    vm.power_off()
    console.expect("pressed", PATIENCE_S)
    vm.power_off()
    assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF
    assert console.output.count(b"pressed") == 2


def test_serial_input_interrupts(boot):
    vm = boot(ECHO)
    vm.serial[0].expect("ready", PATIENCE_S)
    vm.serial[0].send("ring")
    vm.serial[0].expect("RING", PATIENCE_S)
    vm.serial[0].send("q")
    assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF


@pytest.mark.parametrize(
    "how",
    [
        "mov dx, 0xCF9\n mov al, 6\n out dx, al",
        "mov al, 0xFE\n out 0x64, al",
        "mov al, 3\n out 0x92, al",
        "lidt [0x1000]\n ud2",
    ],
    ids=["CF9h", "8042", "port 92h", "triple fault"],
)
def test_a_reset_starts_the_kernel_again_and_keeps_ram(boot, how):
    vm = boot(RESET_ONCE.replace("HOW", how))
    assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF
    assert vm.serial[0].output.count(b"started") == 2


def test_a_paused_guest_does_not_go_on(boot):
    vm = boot("start: inc dword [0x200000]\n jmp start\n")
    vm.pause()
    before = vm.memory.read(0x200000, 4)
    assert vm.memory.read(0x200000, 4) == before
    vm.resume()
    vm.stop()
    assert vm.wait().reason is ExitReason.STOPPED
