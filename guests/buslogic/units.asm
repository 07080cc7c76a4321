; Finding disks and CD drives when the BIOS initialises the card, and making disks drives when it says so.

BLOCK           equ     512             ; bytes
INQUIRY_BYTES   equ     36
DISK            equ     0x00            ; peripheral device types: direct access,
CD              equ     0x05            ; CD and DVD

PCI_READ_WORD   equ     0xB109          ; PCI BIOS 2.1, INT 1Ah
PCI_READ_DWORD  equ     0xB10A
PCI_WRITE_WORD  equ     0xB10C
PCI_COMMAND     equ     0x04
PCI_BAR0        equ     0x10
PCI_IO_MASTER   equ     0x0005

IPL_DEVICE      equ     0x0120          ; AX on return: a device to boot from, that INT 13h reads

; From the BIOS: AX = bus, device and function.  Returns AX as the Plug and Play BIOS specification has it (3.3).
initialise:
        pushf
        pushad
        push    ds
        push    es
        mov     bp, sp
        sub     sp, FRAME + BLOCK
        cld
        sti                             ; the timer counts while we wait
        push    cs
        pop     ds
        mov     [location], ax
        call    find_ports
        mov     si, greeting
        call    print
        call    reset_adapter
        mov     byte [FIELD(target)], 0
.target:
        call    probe
        inc     byte [FIELD(target)]
        cmp     byte [FIELD(target)], TARGETS
        jb      .target
        call    link_headers
        call    seal
        mov     sp, bp
        pop     es
        pop     ds
        popad
        xor     ax, ax
        cmp     word [cs:count], 0
        je      .none
        mov     ax, IPL_DEVICE
.none:
        popf
        retf

; Where the registers are; lets the card be found there, and be a bus master.
find_ports:
        mov     bx, [location]
        mov     ax, PCI_READ_DWORD
        mov     di, PCI_BAR0
        int     0x1A
        and     cx, 0xFFFC
        mov     [ports], cx
        mov     ax, PCI_READ_WORD
        mov     di, PCI_COMMAND
        int     0x1A
        or      cx, PCI_IO_MASTER
        mov     ax, PCI_WRITE_WORD
        mov     di, PCI_COMMAND
        int     0x1A
        ret

; The block of data below the frame: [data] = its address, ES:DI = SS:SI = where it is.
buffer:
        lea     si, [bp - FRAME - BLOCK]
        call    stack_address
        mov     [FIELD(data)], eax
        mov     di, si
        push    ss
        pop     es
        ret

; Looks for a disk or a CD drive at [target], and writes down what there is to know of it.
probe:
        mov     ax, [count]
        cmp     ax, UNITS
        je      .end
        mov     dx, Unit_size
        mul     dx
        add     ax, units
        mov     [FIELD(unit)], ax
        mov     al, INQUIRY
        call    begin_cdb
        mov     byte [FIELD(cdb) + 4], INQUIRY_BYTES
        mov     byte [FIELD(direction)], DATA_IN
        mov     byte [FIELD(length)], INQUIRY_BYTES
        call    buffer
        call    execute
        jc      .end
        mov     al, [es:di]
        cmp     al, DISK
        je      .disk
        cmp     al, CD
        jne     .end
        call    keep_name
        call    enter_cd
        jmp     .found
.disk:
        call    keep_name
        call    enter_disk
        jc      .end
.found:
        mov     di, [FIELD(unit)]
        mov     al, [FIELD(target)]
        mov     [di + Unit.target], al
        inc     word [count]
        mov     si, di
        call    name_of
        call    print
        mov     si, new_line
        call    print
.end:
        ret

; The unit is a disk.  CF unless its blocks can be told, and have 512 bytes.
enter_disk:
        call    start
        call    read_capacity
        jc      .end
        cmp     ecx, BLOCK
        stc
        jne     .end
        mov     si, [FIELD(unit)]
        mov     [si + Unit.blocks], eax
        mov     [si + Unit.block_bytes], ecx
        call    find_geometry
        clc
.end:
        ret

; The unit is a CD drive, and a drive of INT 13h at once: when a CD is booted, nothing can be written down any more.
enter_cd:
        mov     si, [FIELD(unit)]
        mov     dword [si + Unit.block_bytes], CD_BLOCK
        mov     al, [last_cd]
        dec     byte [last_cd]
        mov     [si + Unit.drive], al
        jmp     hook

; SI = the name that belongs to the unit SI.
name_of:
        push    ax
        push    dx
        mov     ax, si
        sub     ax, units
        mov     dl, Unit_size
        div     dl
        mov     dl, NAME_BYTES
        mul     dl
        add     ax, names
        mov     si, ax
        pop     dx
        pop     ax
        ret

; "SCSI 0: " and vendor and product as INQUIRY told them at ES:DI, without spaces at the end.
keep_name:
        mov     si, [FIELD(unit)]
        call    name_of
        mov     bx, si
        mov     dword [bx], "SCSI"
        mov     dword [bx + 4], " 0: "
        mov     al, [FIELD(target)]
        cmp     al, 10
        jb      .digit
        sub     al, 10
        mov     byte [bx + 4], "1"      ; "SCSI10: "
.digit:
        add     [bx + 5], al
        mov     cx, 8 + 16
        add     di, 8
        add     bx, 8
.copy:
        mov     al, [es:di]
        inc     di
        mov     [bx], al
        inc     bx
        loop    .copy
.trim:
        dec     bx
        cmp     byte [bx], " "
        je      .trim
        mov     byte [bx + 1], 0
        ret

; A disk that is stopped gets going.
start:
        mov     al, TEST_UNIT_READY
        call    begin_cdb
        call    execute
        jnc     .end
        mov     al, START_STOP
        call    begin_cdb
        mov     byte [FIELD(cdb) + 4], 1
        call    execute
.end:
        ret

; EAX = blocks of the unit, ECX = bytes of one.  CF: it does not tell, AH = status.
read_capacity:
        mov     al, READ_CAPACITY
        call    begin_cdb
        mov     byte [FIELD(direction)], DATA_IN
        mov     byte [FIELD(length)], 8
        lea     si, [FIELD(answer)]
        call    stack_address
        mov     [FIELD(data)], eax
        call    execute
        jc      .end
        mov     ecx, [FIELD(answer) + 4]
        bswap   ecx
        mov     eax, [FIELD(answer)]
        bswap   eax
        inc     eax
        jnz     .known                  ; more than can be told: 2 TiB less one block can be used
        dec     eax
.known:
        clc
.end:
        ret

; One header for each unit.
link_headers:
        mov     cx, [count]
        jcxz    .end
        mov     bx, expansion_headers
        mov     dx, vector_0
        mov     si, units
.header:
        mov     ax, Expansion.bev
        cmp     dword [si + Unit.block_bytes], CD_BLOCK
        je      .cd
        mov     ax, Expansion.bcv
.cd:
        mov     di, bx
        add     di, ax
        mov     [di], dx
        add     dx, vector_1 - vector_0
        add     si, Unit_size
        push    si
        lea     ax, [bx + Expansion_size]
        cmp     cx, 1
        ja      .more
        xor     ax, ax
.more:
        mov     [bx + Expansion.next], ax
        mov     si, bx
        mov     di, Expansion_size
        call    sum
        sub     [bx + Expansion.checksum], al
        pop     si
        add     bx, Expansion_size
        loop    .header
.end:
        ret

; AL = sum of the DI bytes at SI.
sum:
        mov     al, 0
.byte:
        add     al, [si]
        inc     si
        dec     di
        jnz     .byte
        ret

; The bytes of the ROM add up to 0 again.
seal:
        xor     si, si
        mov     di, ROM_BYTES
        call    sum
        sub     [checksum], al
        ret

; Prints the string at DS:SI.
print:
        lodsb
        or      al, al
        jz      .end
        pusha                           ; video BIOSes are said to forget some
        mov     ah, 0x0E
        mov     bx, 7
        int     0x10
        popa
        jmp     print
.end:
        ret

greeting:       db      "BusLogic BT-958"
new_line:       db      13, 10, 0

; --- boot connection and bootstrap entry vectors, one for each unit ---

%assign number 0
%rep UNITS
vector_%[number]:
        push    si
        mov     si, units + number * Unit_size
        jmp     near chosen
%assign number number + 1
%endrep

; The BIOS has chosen the unit SI: a disk becomes the next drive of INT 13h, a CD is booted.
chosen:
        cmp     dword [cs:si + Unit.block_bytes], CD_BLOCK
        je      boot_cd
        pushf
        pushad
        push    ds
        push    es
        push    cs
        pop     ds
        push    BDA
        pop     es
        cmp     byte [si + Unit.drive], 0
        jne     .end
        mov     al, [es:BDA_DISKS]
        inc     byte [es:BDA_DISKS]
        add     al, 0x80
        mov     [si + Unit.drive], al
        call    hook
        call    seal
.end:
        pop     es
        pop     ds
        popad
        popf
        pop     si
        retf

; INT 13h comes to us from now on.
hook:
        pushf
        cmp     dword [previous], 0
        jne     .end
        xor     ax, ax
        mov     es, ax
        mov     eax, [es:4 * 0x13]
        mov     [previous], eax
        cli
        mov     word [es:4 * 0x13], int13
        mov     [es:4 * 0x13 + 2], cs
.end:
        popf
        ret
