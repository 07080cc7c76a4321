; The adapter's registers, commands and mailboxes: one CCB at a time, without interrupts.
;
; The frame that all of this works on is on the stack, at SS:BP - FRAME.  `Frame` has it.

COMMAND         equ     1               ; registers behind the first, which is status and control
INTERRUPT       equ     2

BUSY            equ     0x08            ; status
READY           equ     0x10
HARD_RESET      equ     0x80            ; control
INTERRUPT_RESET equ     0x20
COMPLETE        equ     0x04            ; of the interrupt register

START_MAILBOX   equ     0x02
ENABLE_INTERRUPT equ    0x25
INIT_MAILBOX    equ     0x81            ; of 32 bits

START           equ     1 << 24         ; action, in an outgoing mailbox's second doubleword
CCB_RESIDUAL    equ     0x03            ; opcode: tells how much of the data did not move
DATA_IN         equ     1 << 3          ; direction
DATA_OUT        equ     2 << 3
NO_DATA         equ     3 << 3
SENSE_BYTES     equ     18

SELECTION_TIMEOUT equ   0x11            ; host status
CHECK_CONDITION equ     0x02            ; target status
TARGET_BUSY     equ     0x08
UNIT_ATTENTION  equ     6               ; sense key
LBA_OUT_OF_RANGE equ    0x21            ; additional sense code

TEST_UNIT_READY equ     0x00            ; operation codes
INQUIRY         equ     0x12
START_STOP      equ     0x1B
READ_CAPACITY   equ     0x25
READ            equ     0x28            ; these five with a block number of 32 bits, a count of 16
WRITE           equ     0x2A
SEEK            equ     0x2B
WRITE_VERIFY    equ     0x2E
VERIFY          equ     0x2F

BAD_COMMAND     equ     0x01            ; status, as INT 13h tells it
NO_SUCH_SECTOR  equ     0x04
ADAPTER_FAILED  equ     0x20
NO_ANSWER       equ     0x80
NOT_READY       equ     0xAA

ATTEMPTS        equ     8
PATIENCE        equ     60 * 18         ; timer ticks that a command may take
POLLS           equ     0xFFFF          ; that the adapter may take for a byte of a command

struc Frame
.out            resd    2               ; the mailboxes: outgoing,
.in             resd    2               ; incoming
.opcode         resb    1               ; the CCB
.direction      resb    1
.cdb_length     resb    1
.sense_length   resb    1
.data_length    resd    1
.data           resd    1
                resw    1
.host_status    resb    1
.target_status  resb    1
.target         resb    1
.lun            resb    1
.cdb            resb    12
                resb    6
.sense_pointer  resd    1
.sense          resb    20              ; what the adapter reads and writes ends here
.length         resd    1               ; of the data: the CCB's own becomes the residual
.attempts       resw    1
.unit           resw    1               ; the one of `units` that all is about
.answer         resb    8               ; of READ CAPACITY
endstruc

FRAME           equ     Frame_size
%define FIELD(name) bp - FRAME + Frame. %+ name

; The adapter takes the command byte or parameter AL.
send:
        push    cx
        mov     dx, [cs:ports]
        mov     ah, al
        mov     cx, POLLS
.busy:
        in      al, dx
        test    al, BUSY
        loopnz  .busy
        add     dx, COMMAND
        mov     al, ah
        out     dx, al
        pop     cx
        ret

; Waits until the command is carried out, and takes its interrupt away.
complete:
        mov     dx, [cs:ports]
        add     dx, INTERRUPT
        mov     cx, POLLS
.wait:
        in      al, dx
        test    al, COMPLETE
        loopz   .wait
; Takes interrupts away.
acknowledge:
        mov     dx, [cs:ports]
        mov     al, INTERRUPT_RESET
        out     dx, al
        ret

; As the adapter is after power-on.
reset_adapter:
        mov     dx, [cs:ports]
        mov     al, HARD_RESET
        out     dx, al
        mov     cx, PATIENCE
.wait:
        in      al, dx
        test    al, READY
        jnz     .end
        call    tick
        jnz     .wait
.end:
        ret

; Counts CX down if the timer ticked since BL was set, which it sets; ZF if nothing is left.
tick:
        push    ds
        push    BDA
        pop     ds
        pause
        cmp     bl, [BDA_TICKS]
        je      .same
        mov     bl, [BDA_TICKS]
        dec     cx
.same:
        pop     ds
        or      cx, cx
        ret

; The adapter gets one outgoing and one incoming mailbox, and keeps its interrupts to itself.
open_mailboxes:
        mov     al, ENABLE_INTERRUPT
        call    send
        mov     al, 0
        call    send
        call    complete
        mov     al, INIT_MAILBOX
        call    send
        mov     al, 1
        call    send
        lea     si, [FIELD(out)]
        call    stack_address
        mov     cx, 4
.byte:
        push    eax
        call    send
        pop     eax
        shr     eax, 8
        loop    .byte
        jmp     complete

; EAX = physical address of SS:SI.
stack_address:
        push    esi
        movzx   esi, si
        mov     ax, ss
        movzx   eax, ax
        shl     eax, 4
        add     eax, esi
        pop     esi
        ret

; Carries out the CDB in the frame; its data is at [data], [length] bytes.  AH = status as INT 13h tells it, and
; CF unless that is 0.  Tries again what a unit attention or a busy target is in the way of.
execute:
        mov     word [FIELD(attempts)], ATTEMPTS
.attempt:
        call    transact
        jc      .end                    ; no answer
        mov     al, [FIELD(target_status)]
        cmp     al, TARGET_BUSY
        je      .again
        cmp     al, CHECK_CONDITION
        jne     .judge
        mov     al, [FIELD(sense) + 2]
        and     al, 0x0F
        cmp     al, UNIT_ATTENTION
        jne     .judge
.again:
        dec     word [FIELD(attempts)]
        jnz     .attempt
.judge:
        call    judge
.end:
        cmp     ah, 1
        cmc
        ret

; One round with the adapter.  CF: it did not answer, AH = status.
transact:
        pushad
        call    open_mailboxes
        lea     si, [FIELD(opcode)]
        call    stack_address
        mov     [FIELD(out)], eax
        mov     dword [FIELD(out) + 4], START
        xor     eax, eax
        mov     [FIELD(in)], eax
        mov     [FIELD(in) + 4], eax
        mov     [FIELD(lun)], al
        mov     [FIELD(host_status)], ax
        mov     [FIELD(sense) + 2], al
        mov     byte [FIELD(opcode)], CCB_RESIDUAL
        mov     byte [FIELD(sense_length)], SENSE_BYTES
        lea     si, [FIELD(sense)]
        call    stack_address
        mov     [FIELD(sense_pointer)], eax
        mov     eax, [FIELD(length)]
        mov     [FIELD(data_length)], eax
        mov     al, START_MAILBOX
        call    send
        mov     cx, PATIENCE
.wait:
        call    tick
        jz      .silent
        cmp     byte [FIELD(in) + 7], 0
        je      .wait
        call    acknowledge
        popad
        clc
        ret
.silent:
        call    reset_adapter           ; so that nothing arrives on this stack any more
        popad
        mov     ah, NO_ANSWER
        stc
        ret

; AH = what INT 13h calls the way the CCB ended.
judge:
        mov     ah, NO_ANSWER
        cmp     byte [FIELD(host_status)], SELECTION_TIMEOUT
        je      .end
        mov     ah, ADAPTER_FAILED
        cmp     byte [FIELD(host_status)], 0
        jne     .end
        mov     ah, 0
        cmp     byte [FIELD(target_status)], 0
        je      .end
        mov     ah, NOT_READY
        cmp     byte [FIELD(target_status)], CHECK_CONDITION
        jne     .end
        mov     ah, NO_SUCH_SECTOR
        cmp     byte [FIELD(sense) + 12], LBA_OUT_OF_RANGE
        je      .end
        movzx   bx, byte [FIELD(sense) + 2]
        and     bl, 0x0F
        mov     ah, [cs:.by_key + bx]
.end:
        ret
; No sense, recovered, not ready, medium (bad sector), hardware, illegal request, unit attention (changed), data
; protect; then what nobody has words for, but for aborted (0Bh) and miscompare (0Eh).
.by_key:        db      0x00, 0x00, NOT_READY, 0x10, ADAPTER_FAILED, BAD_COMMAND, 0x06, 0x03
                db      0xBB, 0xBB, 0xBB, ADAPTER_FAILED, 0xBB, 0xBB, 0x10, 0xBB

; A CDB of zeros but for the operation code AL; no data.
begin_cdb:
        mov     dword [FIELD(cdb) + 1], 0
        mov     dword [FIELD(cdb) + 5], 0
        mov     dword [FIELD(cdb) + 8], 0
        mov     [FIELD(cdb)], al
        mov     byte [FIELD(cdb_length)], 6
        cmp     al, 0x20
        jb      .short
        mov     byte [FIELD(cdb_length)], 10
.short:
        mov     byte [FIELD(direction)], NO_DATA
        mov     dword [FIELD(length)], 0
        ret
