; How long accesses to devices take: each is done in batches, timed by the TSC, and the shortest batch counts.
;
; Multiboot, 32 bits, no paging, interrupts off.  On COM1, a line for each access: its name, and the ticks that
; the shortest batch took as 16 hexadecimal digits; the first is the loop without an access, the last "done".

bits 32
org 0x100020                            ; behind the header that ring3.testing.multiboot makes

BATCHES equ 60
BATCH equ 500                           ; accesses
COM1 equ 0x3F8
LOCAL_APIC equ 0xFEE00000
IO_APIC equ 0xFEC00000
IDE_FUNCTION equ 0x80000900             ; of the PCI device 1

; A line: the name, then the access, which may use EAX and EDX (EDX is what the second parameter says).
%macro measure 3+
    mov esi, %%name
    call say
    mov edi, %2
    mov ebx, %%access
    call shortest
    call say_ticks
    jmp %%end
%%name: db %1, 0
    align 16
%%access:
    mov ecx, BATCH
    align 16
%%again:
    mov edx, edi
    %3
    dec ecx
    jnz %%again
    ret
%%end:
%endmacro

start:
    mov esp, 0x200000
    cli
    call find_bus_master
    measure "nothing", 0, nop
    measure "IDE status: in al, 1F7h", 0x1F7, in al, dx
    measure "IDE alternate status: in al, 3F6h", 0x3F6, in al, dx
    measure "IDE sector count: in al, 1F2h", 0x1F2, in al, dx
    measure "IDE sector count: out 1F2h, al", 0x1F2, out dx, al
    measure "IDE device: out 1F6h, al", 0x1F6, call select_device
    measure "IDE bus master status: in al", [bus_master_status], in al, dx
    measure "VGA status 1: in al, 3DAh", 0x3DA, in al, dx
    measure "VGA attribute: out 3C0h, al", 0x3C0, call border
    measure "VGA index: out 3CEh, al", 0x3CE, call bit_mask_index
    measure "VGA index and data: out 3CEh, ax", 0x3CE, call bit_mask
    measure "POST code: out 80h, al", 0x80, out dx, al
    measure "8259 mask: in al, 21h", 0x21, in al, dx
    measure "8259 mask: out 21h, al", 0x21, call mask_all
    measure "8254 counter: in al, 40h", 0x40, in al, dx
    measure "8254 latch: out 43h, al", 0x43, call latch
    measure "UART line status: in al, 3FDh", COM1 + 5, in al, dx
    measure "PM timer: in eax, 608h", 0x608, in eax, dx
    measure "nobody's port: in al, 2F0h", 0x2F0, in al, dx
    measure "I/O APIC window: mov eax, [FEC00010h]", IO_APIC + 0x10, mov eax, [edx]
    measure "local APIC ID: mov eax, [FEE00020h]", LOCAL_APIC + 0x20, mov eax, [edx]
    measure "local APIC TPR: mov eax, [FEE00080h]", LOCAL_APIC + 0x80, mov eax, [edx]
    measure "local APIC TPR: mov [FEE00080h], eax", LOCAL_APIC + 0x80, call set_priority
    measure "local APIC EOI: mov [FEE000B0h], eax", LOCAL_APIC + 0xB0, mov [edx], eax
    mov esi, done
    call say
    hlt

; --- accesses with a value that they need ---

select_device:
    mov al, 0xA0
    out dx, al
    ret

border:                                 ; index and data in turns
    mov al, 0x31
    out dx, al
    ret

bit_mask_index:
    mov al, 8
    out dx, al
    ret

bit_mask:
    mov eax, ecx
    shl eax, 8
    mov al, 8
    out dx, ax
    ret

mask_all:
    mov al, 0xFF
    out dx, al
    ret

latch:
    xor eax, eax
    out dx, al
    ret

set_priority:
    xor eax, eax
    mov [edx], eax
    ret

; --- the rest ---

find_bus_master:                        ; region 4 of the IDE function, opened
    mov dx, 0xCF8
    mov eax, IDE_FUNCTION + 0x04
    out dx, eax
    mov dx, 0xCFC
    mov ax, 5
    out dx, ax
    mov dx, 0xCF8
    mov eax, IDE_FUNCTION + 0x20
    out dx, eax
    mov dx, 0xCFC
    in eax, dx
    and eax, 0xFFF0
    add eax, 2
    mov [bus_master_status], eax
    ret

shortest:                               ; EBX: a batch; EBP:EAX: ticks
    mov dword [best], -1
    mov dword [best + 4], -1
    mov dword [left], BATCHES
.again:
    rdtsc
    mov [began], eax
    mov [began + 4], edx
    call ebx
    rdtsc
    sub eax, [began]
    sbb edx, [began + 4]
    cmp edx, [best + 4]
    ja .longer
    jb .shorter
    cmp eax, [best]
    jae .longer
.shorter:
    mov [best], eax
    mov [best + 4], edx
.longer:
    dec dword [left]
    jnz .again
    ret

say_ticks:
    mov al, "="
    call put
    mov ebp, [best + 4]
    call say_hexadecimal
    mov ebp, [best]
    call say_hexadecimal
    mov al, 10
    jmp put

say_hexadecimal:                        ; EBP
    mov ecx, 8
.digit:
    rol ebp, 4
    mov eax, ebp
    and eax, 15
    mov al, [digits + eax]
    call put
    loop .digit
    ret

say:                                    ; the string at ESI
    lodsb
    test al, al
    jz .end
    call put
    jmp say
.end:
    ret

put:                                    ; AL
    mov ah, al
    mov dx, COM1 + 5
.wait:
    in al, dx
    test al, 0x20
    jz .wait
    mov dx, COM1
    mov al, ah
    out dx, al
    ret

digits: db "0123456789ABCDEF"
done: db "done", 10, 0

    align 8
best: dq 0
began: dq 0
left: dd 0
bus_master_status: dd 0
