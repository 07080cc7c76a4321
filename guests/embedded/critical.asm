; The critical section of the 1999 talk, in ring 0, with timer interrupts arriving.
;
;       pushfd / cli / mov eax,[x] / cmp / je / mov [x],… / popfd / add …
;
; A processor that executes POPFD without privilege loses its effect on IF, and one that is interrupted
; between CLI and POPFD breaks the section.  So the interrupt handler looks where it interrupted:
;   1. never from the instruction after CLI up to POPFD itself, and always with IF set;
;   2. both words that the section keeps equal are equal.
; Then the same runs with IF clear from the start: POPFD must not set it, so no interrupt may arrive.

TIMER_DIVISOR           equ     298             ; of 1.193182 MHz: 4004 Hz
INTERRUPTS_WANTED       equ     100
CHUNK                   equ     10000           ; iterations between looks at the counters
CHUNKS_OPEN_MAX         equ     10000           ; then the timer is given up
CHUNKS_CLOSED           equ     20

EFLAGS_IF               equ     1 << 9

        section .text
        bits    32

critical_test:
        PRINT   10, "critical section in ring 0 under timer interrupts", 10
        mov     ax, TIMER_DIVISOR
        call    pit_start
        mov     al, 1 << IRQ_TIMER
        call    irq_unmask

        sti
        mov     ebp, CHUNKS_OPEN_MAX
.open:
        call    critical_chunk
        inc     dword [chunks_run]
        cmp     dword [interrupts], INTERRUPTS_WANTED
        jae     .enough
        dec     ebp
        jnz     .open
.enough:
        cli
        call    report_open
        mov     eax, [interrupts]
        mov     [interrupts_open], eax

        mov     ebp, CHUNKS_CLOSED
.closed:
        call    critical_chunk
        dec     ebp
        jnz     .closed
        call    report_closed

        xor     al, al                  ; all masked
        call    irq_unmask
        ret

; CHUNK times through the section.  EBX counts; every second pass finds its value stored already.
critical_chunk:
        xor     ecx, ecx
        mov     edx, CHUNK
.loop:
        mov     ebx, edx
        shr     ebx, 1
        pushfd
        cli
critical_begin:
        mov     eax, [shared]
        cmp     eax, ebx
        je      .stored
        mov     [shared], ebx
        mov     [shared_twin], ebx
.stored:
        popfd
critical_end:
        add     ecx, ebx
        dec     edx
        jnz     critical_chunk.loop
        cmp     ecx, (CHUNK / 2) * (CHUNK / 2)          ; the sum of n/2 for n = 1 … CHUNK
        je      .right
        inc     dword [wrong_sums]
.right:
        ret

irq_timer:
        push    eax
        inc     dword [interrupts]
        mov     eax, [esp + 4]          ; interrupted EIP
        cmp     eax, critical_begin
        jb      .outside
        cmp     eax, critical_end
        jb      .broken
.outside:
        test    dword [esp + 12], EFLAGS_IF
        jz      .broken
        mov     eax, [shared]
        cmp     eax, [shared_twin]
        je      .acknowledge
.broken:
        inc     dword [broken]
.acknowledge:
        mov     al, PIC_EOI
        out     PIC1_COMMAND, al
        pop     eax
        iretd

report_open:
        PRINT   "  interrupts on:  "
        mov     eax, CHUNK
        mul     dword [chunks_run]
        call    print_dec
        PRINT   " passes, "
        mov     eax, [interrupts]
        call    print_dec
        PRINT   " interrupts, "
        mov     eax, [broken]
        call    print_dec
        PRINT   " inside the section"
        cmp     dword [interrupts], INTERRUPTS_WANTED
        jb      .failed
        mov     eax, [broken]
        or      eax, [wrong_sums]
        jz      report_ok
.failed:
        jmp     report_failed

report_closed:
        PRINT   "  interrupts off: "
        mov     eax, CHUNK * CHUNKS_CLOSED
        call    print_dec
        PRINT   " passes, "
        mov     eax, [interrupts]
        sub     eax, [interrupts_open]
        call    print_dec
        PRINT   " interrupts"
        or      eax, [wrong_sums]
        jz      report_ok
report_failed:
        inc     dword [failures]
        PRINT   "  FAILED", 10
        ret
report_ok:
        PRINT   "  ok", 10
        ret

        section .bss
        alignb  4
shared:                 resd 1          ; written only inside the section,
shared_twin:            resd 1          ; and always both
interrupts:             resd 1
interrupts_open:        resd 1          ; when interrupts were turned off
broken:                 resd 1          ; interrupts that saw a rule broken
wrong_sums:             resd 1          ; chunks that lost an iteration
chunks_run:             resd 1
