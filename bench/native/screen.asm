; A guest that redraws 1024x768x32 at a fixed rate and counts what it can do besides.
;
; Multiboot; the Bochs display's registers (1CEh, 1CFh) and its frame buffer (PCI 1234h:1111h, region 0, which
; no firmware has placed).  At COUNTS: frames drawn (32 bits), loops in the time left (64 bits).
; Assembled with -DTSC_PER_FRAME=…; with -DSTILL it draws once and halts, with interrupts off.

bits 32
org 0x100020                            ; behind the header that ring3.testing.multiboot makes

WIDTH equ 1024
HEIGHT equ 768
FRAME_BUFFER equ 0xE0000000
COUNTS equ 0x300000

%macro dispi 2
    mov dx, 0x1CE
    mov ax, %1
    out dx, ax
    inc dx
    mov ax, %2
    out dx, ax
%endmacro

start:
    mov esp, 0x200000
    mov ebx, 0x80000000                 ; bus 0, device 0
find:
    mov eax, ebx
    mov dx, 0xCF8
    out dx, eax
    mov dx, 0xCFC
    in eax, dx
    cmp eax, 0x11111234
    je found
    add ebx, 0x800
    cmp ebx, 0x80010000
    jne find
    cli
    hlt
found:
    lea eax, [ebx + 0x10]
    mov dx, 0xCF8
    out dx, eax
    mov dx, 0xCFC
    mov eax, FRAME_BUFFER
    out dx, eax
    lea eax, [ebx + 4]
    mov dx, 0xCF8
    out dx, eax
    mov dx, 0xCFC
    mov ax, 3                           ; ports and memory are decoded
    out dx, ax
    dispi 4, 0
    dispi 1, WIDTH
    dispi 2, HEIGHT
    dispi 3, 32
    dispi 4, 0x41                       ; on, linear frame buffer
    mov dword [COUNTS], 0
    mov dword [COUNTS + 8], 0
    mov dword [COUNTS + 12], 0
    rdtsc
    mov esi, eax                        ; when the next frame is due (the TSC's low half)
frame:
    mov edi, FRAME_BUFFER
    mov ebx, HEIGHT
    mov ebp, [COUNTS]
row:
    mov eax, ebx
    shl eax, 15
    lea edx, [ebp * 4]
    add eax, edx
    mov ecx, WIDTH
pixel:
    mov [edi], eax
    add eax, 0x101
    add edi, 4
    dec ecx
    jnz pixel
    dec ebx
    jnz row
    inc dword [COUNTS]
%ifdef STILL
    cli
    hlt
%endif
    add esi, TSC_PER_FRAME
spare:
    mov ecx, 1000
work:
    imul eax, eax, 0x5BD1E995
    add eax, ecx
    dec ecx
    jnz work
    add dword [COUNTS + 8], 1
    adc dword [COUNTS + 12], 0
    rdtsc
    sub eax, esi
    js spare
    jmp frame
