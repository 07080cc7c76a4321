; A guest that redraws 1024x768x32 at a fixed rate and counts what it can do besides.
;
; Multiboot.  At COUNTS: frames drawn (32 bits), loops in the time left (64 bits).
; Assembled with -DTSC_PER_FRAME=…; with -DSTILL it draws once and halts, with interrupts off.

bits 32
org 0x100020                            ; behind the header that ring3.testing.multiboot makes

%include "display.inc"

COUNTS equ 0x300000

start:
    mov esp, 0x200000
    set_up_display
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
