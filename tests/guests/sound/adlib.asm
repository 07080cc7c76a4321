; A boot sector that finds an FM synthesizer at port 388h by its timer, as programs for AdLib cards do, plays
; one note of 440 Hz for a second, says "K" on COM1 (or "?") and rests.
bits 16
org 7C00h

%define FM 388h
%define TICKS_A_SECOND 18

start:  cli
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 7C00h
        cld
        sti

        mov si, detect
        call play
        mov dx, FM
        in al, dx
        mov bl, al                      ; flags cleared: 0
        mov ax, 0FF02h
        call set
        mov ax, 2104h                   ; timer 1: 80 us
        call set
        mov cx, 200
        mov dx, FM
.wait:  in al, dx
        and al, 0E0h
        cmp al, 0C0h
        loopne .wait
        mov bh, al
        mov si, detect
        call play
        mov al, '?'
        and bl, 0E0h
        cmp bx, 0C000h
        jne say

        mov si, note
        call play
        mov cx, TICKS_A_SECOND
.tick:  mov ax, [46Ch]
.same:  hlt
        cmp ax, [46Ch]
        je .same
        loop .tick
        mov ax, 12B0h                   ; its key comes up
        call set
        mov al, 'K'
say:    mov dx, 3F8h
        out dx, al
rest:   hlt
        jmp rest

; Registers and values at SI, up to a zero.
play:   lodsw
        test al, al
        jz .done
        call set
        jmp play
.done:  ret

; Register AL = AH, with the pauses that an OPL2 needs.
set:    push cx
        mov dx, FM
        out dx, al
        mov cx, 6
.short: in al, dx
        loop .short
        inc dx
        mov al, ah
        out dx, al
        dec dx
        mov cx, 35
.long:  in al, dx
        loop .long
        pop cx
        ret

detect: db 04h, 60h, 04h, 80h, 0
note:   db 20h, 22h, 40h, 24h, 60h, 0F0h, 80h, 77h      ; modulator: twice the pitch, -27 dB
        db 23h, 21h, 43h, 00h, 63h, 0F0h, 83h, 77h      ; carrier
        db 0C0h, 00h, 0A0h, 44h, 0B0h, 32h, 0           ; 580 x 2^(4-20) x 49716 Hz = 440 Hz

        times 510 - ($ - $$) db 0
        dw 0AA55h
