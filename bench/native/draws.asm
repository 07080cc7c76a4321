; A guest that draws a number of four hexadecimal digits in the upper left corner of the screen at a fixed rate,
; 1 at first, and says so on COM1 at once.  Multiboot; assembled with -DTSC_PER_DRAW=…, and with -DFONT=FILE
; (256 glyphs of 16 bytes) to draw on a frame buffer, else in text mode.

bits 32
org 0x100020                            ; behind the header that ring3.testing.multiboot makes

%ifdef FONT
%include "display.inc"
%endif

TEXT equ 0xB8000
COM1 equ 0x3F8

start:
    mov esp, 0x200000
%ifdef FONT
    set_up_display
%endif
    xor ebp, ebp
    rdtsc
    mov esi, eax                        ; when the next one is due (the TSC's low half)
    add esi, TSC_PER_DRAW
wait_for_it:
    pause
    rdtsc
    sub eax, esi
    js wait_for_it
    add esi, TSC_PER_DRAW
    inc ebp
    mov ebx, ebp
%ifdef FONT
    mov edi, FRAME_BUFFER
%else
    mov edi, TEXT
%endif
    mov ecx, 4
digit:
    rol bx, 4
    mov al, bl
    and al, 15
    cmp al, 10
    sbb al, 0x69                        ; with DAS: 0 to 9, A to F
    das
%ifdef FONT
    call glyph
%else
    mov ah, 7
    stosw
%endif
    loop digit
    mov dx, COM1
    mov al, 'd'
    out dx, al
    jmp wait_for_it

%ifdef FONT
; The character AL at EDI, which goes on by 8 pixels.
glyph:
    pushad
    movzx eax, al
    shl eax, 4
    lea esi, [font + eax]
    mov ecx, 16
.row:
    lodsb
    mov ah, 8
.dot:
    shl al, 1
    sbb edx, edx                        ; white or black
    mov [edi], edx
    add edi, 4
    dec ah
    jnz .dot
    add edi, 4 * (WIDTH - 8)
    loop .row
    popad
    add edi, 4 * 8
    ret

font:
    incbin FONT
%endif
