; CDs: the boot catalog, and the program it names ("El Torito" Bootable CD-ROM Format Specification 1.0).
;
; Without emulation: the program is loaded and started, and reads the CD by INT 13h's extensions.

CD_BLOCK        equ     2048            ; bytes
BOOT_RECORD     equ     17              ; block
CATALOG_AT      equ     0x47            ; in it: the catalog's block
SECTORS_A_BLOCK equ     4               ; a program's length is told in sectors of 512 bytes
LOAD_SEGMENT    equ     0x07C0          ; unless the catalog tells another

struc Validation                        ; the catalog's first entry
.id             resb    1               ; 1
.platform       resb    1               ; 0: 80x86
                resb    28
.key            resw    1
endstruc

struc Entry                             ; its second one
.bootable       resb    1
.media          resb    1
.segment        resw    1
                resw    1
.sectors        resw    1
.block          resd    1
endstruc

BOOTABLE        equ     0x88
EMULATION       equ     0x0F            ; of Entry.media; 0: none

struc Specification                     ; what function 4Bh answers
.size           resb    1
.media          resb    1
.drive          resb    1
.controller     resb    1
.block          resd    1
.device         resw    1               ; target and LUN
.cache          resw    1
.segment        resw    1
.sectors        resw    1
.chs            resb    3
endstruc

; Starts what is on the CD in the drive that SI is about; goes on with INT 18h, the next in the BIOS's order, if
; there is nothing.
boot_cd:
        sti
        cld
        push    cs
        pop     ds
        mov     bp, sp
        sub     sp, FRAME + CD_BLOCK
        mov     [FIELD(unit)], si
        mov     al, [si + Unit.target]
        mov     [FIELD(target)], al
        lea     di, [bp - FRAME - CD_BLOCK]
        call    find_program
        jc      .nothing
        test    byte [es:di + Entry.media], EMULATION
        jnz     .nothing
        call    load
        jc      .nothing
        mov     si, [FIELD(unit)]
        mov     dl, [si + Unit.drive]
        mov     bx, ax                  ; 07C0:0000 as 0000:7C00
        and     ax, 0xF000
        shl     bx, 4
        push    ax
        push    bx
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        retf
.nothing:
        mov     si, nothing_to_boot
        call    print
        int     0x18
.halt:
        hlt
        jmp     .halt

nothing_to_boot: db     "No CD that can be booted", 13, 10, 0

; Loads the program of the entry ES:DI; AX = its segment.  CF: it cannot be read.
load:
        call    segment_of
        push    ax
        movzx   edx, ax
        shl     edx, 4
        movzx   ecx, word [es:di + Entry.sectors]
        add     ecx, SECTORS_A_BLOCK - 1
        shr     ecx, 2
        mov     ebx, [es:di + Entry.block]
        mov     ax, READ | DATA_IN << 8
        call    transfer
        pop     ax
        ret

; AX = where the program of the entry ES:DI wants to be.
segment_of:
        mov     ax, [es:di + Entry.segment]
        or      ax, ax
        jnz     .end
        mov     ax, LOAD_SEGMENT
.end:
        ret

; Reads the boot catalog to SS:DI, where there is room for a block; ES:DI = the entry of its program.  CF: there is no
; CD, or no program for us on it, AH = status.
find_program:
        push    ss
        pop     es
        mov     si, di
        call    stack_address
        mov     edx, eax
        mov     ebx, BOOT_RECORD
        call    .read
        jc      .end
        cmp     dword [es:di + 1], "CD00"
        jne     .none
        cmp     dword [es:di + 7], "EL T"
        jne     .none
        mov     ebx, [es:di + CATALOG_AT]
        call    .read
        jc      .end
        cmp     word [es:di + Validation.id], 1         ; and .platform
        jne     .none
        cmp     word [es:di + Validation.key], 0xAA55
        jne     .none
        add     di, Validation_size
        cmp     byte [es:di + Entry.bootable], BOOTABLE
        je      .end
.none:
        mov     ah, NOT_READY
        stc
.end:
        ret
.read:
        mov     cx, 1
        mov     ax, READ | DATA_IN << 8
        jmp     transfer

; Function 4Bh, AL = 0 or 1: there is no emulation to end; how this CD was booted goes to the caller's DS:SI.
emulation:
        cmp     al, 1
        mov     ah, BAD_COMMAND
        ja      .end
        sub     sp, CD_BLOCK
        mov     di, sp
        call    find_program
        jc      .free
        call    specify
        mov     ah, 0
.free:
        add     sp, CD_BLOCK
.end:
        ret

; The answer for the entry ES:DI.
specify:
        push    fs
        mov     fs, [CALLER(ds)]
        mov     bx, [CALLER(esi)]
        mov     si, [FIELD(unit)]
        mov     word [fs:bx + Specification.size], Specification_size   ; and .media: no emulation
        mov     al, [si + Unit.drive]
        mov     ah, 0
        mov     word [fs:bx + Specification.drive], ax                  ; and .controller
        mov     al, [si + Unit.target]
        mov     [fs:bx + Specification.device], ax
        mov     eax, [es:di + Entry.block]
        mov     [fs:bx + Specification.block], eax
        call    segment_of
        mov     [fs:bx + Specification.segment], ax
        mov     ax, [es:di + Entry.sectors]
        mov     [fs:bx + Specification.sectors], ax
        xor     ax, ax
        mov     [fs:bx + Specification.cache], ax
        mov     [fs:bx + Specification.chs], ax
        mov     [fs:bx + Specification.chs + 2], al
        pop     fs
        ret
