; A boot sector that sets a video mode through the BIOS, draws every colour of it, says "K" on COM1 and rests.
; -DMODE=number of INT 10h/AH=0; -DVBE=number of INT 10h/AX=4F02h; -DDRAW=which of the pictures below.
bits 16
org 7C00h

%macro set 3                            ; port, index, value
        mov dx, %1
        mov ax, (%3) << 8 | (%2)
        out dx, ax
%endmacro

%define SEQ 3C4h
%define GFX 3CEh
%define CRT 3D4h

start:  cli
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 7C00h
        cld
        sti
%ifdef VBE
        mov ax, 4F02h
        mov bx, VBE
%else
        mov ax, MODE
%endif
        int 10h
        call DRAW
        mov dx, 3F8h
        mov al, 'K'
        out dx, al
rest:   hlt
        jmp rest

; Text through the BIOS, in colour 0Eh where the mode has one.
title:  mov si, name
.next:  lodsb
        test al, al
        jz .done
        mov ah, 0Eh
        mov bx, 0Eh
        int 10h
        jmp .next
.done:  ret
name:   db "Ring3", 0

%ifidn DRAW, text
; Every code in every attribute, from row 3 on; bright backgrounds, no cursor: nothing blinks.
text:   mov ax, 1003h
        mov bx, 0
        int 10h
        mov ah, 1
        mov cx, 2000h
        int 10h
        mov ax, SEGMENT
        mov es, ax
        mov di, 3 * COLUMNS * 2
        xor ax, ax
.row:   mov cx, 32
.cell:  stosw
        add ax, 0101h
        loop .cell
        add di, (COLUMNS - 32) * 2
        test al, al
        jnz .row
        jmp title

%elifidn DRAW, cga
; The CGA's two banks: bars of the four (or two) colours, then the name.
cga:    mov ax, 0B800h
        mov es, ax
        mov bx, 0
.bank:  mov di, bx
        mov dx, 100
.line:  mov cx, 20
        mov ax, 0000h
        rep stosb
        mov cx, 20
        mov al, 55h
        rep stosb
        mov cx, 20
        mov al, 0AAh
        rep stosb
        mov cx, 20
        mov al, 0E4h
        rep stosb
        dec dx
        jnz .line
        add bx, 2000h
        cmp bx, 4000h
        jb .bank
        jmp title

%elifidn DRAW, planar
; Sixteen bars by write mode 2, a box by the set/reset logic, a copy through the latches.
planar: mov ax, 0A000h
        mov es, ax
        set GFX, 5, 2
        xor di, di
        mov bp, 120
.line:  xor bx, bx                      ; column
.byte:  mov ax, bx
        shl ax, 4
        mov cl, BYTES
        div cl
        stosb
        inc bx
        cmp bx, BYTES
        jb .byte
        dec bp
        jnz .line
        set GFX, 5, 0                   ; write mode 0: colour 12 where the bit mask lets it
        set GFX, 0, 12
        set GFX, 1, 15
        set GFX, 8, 3Ch
        mov di, 60 * BYTES
        mov cx, 30 * BYTES
.mask:  mov al, [es:di]
        stosb
        loop .mask
        set GFX, 1, 0
        set GFX, 8, 0FFh
        set GFX, 5, 1                   ; write mode 1: lines 0–19 again at 150
        xor si, si
        mov di, 150 * BYTES
        mov cx, 20 * BYTES
        push ds
        push es
        pop ds
        rep movsb
        pop ds
        set GFX, 5, 0
        jmp title

%elifidn DRAW, chain
; 256 colours as 16 × 16 fields of 20 × 12 pixels.
chain:  mov ax, 0A000h
        mov es, ax
        xor di, di
        xor bx, bx                      ; y
.line:  mov ax, bx
        mov cl, 12
        div cl
        shl al, 4
        mov dx, 16
.field: mov cx, 20
        rep stosb
        inc ax
        dec dx
        jnz .field
        inc bx
        cmp bx, 192
        jb .line
        jmp title

%elifidn DRAW, modex
; Mode X: 320 × 240, four planes, page flipped, panned by 2 pixels, split at line 200 of 240.
modex:  set SEQ, 4, 06h
        set SEQ, 0, 01h
        mov dx, 3C2h
        mov al, 0E3h
        out dx, al
        set SEQ, 0, 03h
        set CRT, 11h, 00h
        set CRT, 06h, 0Dh
        set CRT, 07h, 3Eh
        set CRT, 09h, 41h
        set CRT, 10h, 0EAh
        set CRT, 11h, 2Ch
        set CRT, 12h, 0DFh
        set CRT, 14h, 00h
        set CRT, 15h, 0E7h
        set CRT, 16h, 06h
        set CRT, 17h, 0E3h
        mov ax, 0A000h
        mov es, ax
        mov bl, 0                       ; plane
.plane: mov cl, bl
        mov ah, 1
        shl ah, cl
        mov al, 2
        mov dx, SEQ
        out dx, ax
        mov di, 80 * 64                 ; the page shown
        mov dx, 240
.line:  mov cx, 80
.pixel: mov al, bl                      ; a colour for each of the four, darker to the right
        shl al, 4
        add al, 80
        sub al, cl
        cmp cx, dx                      ; and a white diagonal
        jne .put
        mov al, 15
.put:   stosb
        loop .pixel
        dec dx
        jnz .line
        xor di, di                      ; the second part: the plane's number
        mov cx, 80 * 40
        mov al, bl
        add al, 9
        rep stosb
        inc bl
        cmp bl, 4
        jb .plane
        set CRT, 0Ch, 80 * 64 >> 8
        set CRT, 0Dh, 80 * 64 & 0FFh
        set CRT, 18h, 399 & 0FFh        ; line compare 399
        set CRT, 07h, 3Eh | 10h
        set CRT, 09h, 01h
        mov dx, 3DAh
        in al, dx
        mov dx, 3C0h
        mov al, 33h                     ; panning: 2 pixels; the second part stays
        out dx, al
        mov al, 4
        out dx, al
        mov al, 30h
        out dx, al
        mov al, 61h
        out dx, al
        ret

%elifidn DRAW, banks
; A frame buffer through 64 KiB banks: each byte its address's low bits, each bank begins with FFh.
banks:  mov bp, 0
.bank:  mov dx, 1CEh
        mov ax, 5
        out dx, ax
        inc dx
        mov ax, bp
        out dx, ax
        mov ax, 0A000h
        mov es, ax
        xor di, di
        mov cx, 256
        mov al, 0FFh
        rep stosb
.byte:  mov ax, di
        shr ax, SHIFT
        stosb
        test di, di
        jnz .byte
        inc bp
        cmp bp, BANKS
        jb .bank
        ret

%endif

        times 510 - ($ - $$) db 0
        dw 0AA55h
