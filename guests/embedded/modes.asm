; Descriptor tables, task-state segments and the way into and out of each mode.
;
; Everything but a timed loop runs in 32-bit protected mode, unpaged, ring 0.  An `enter_…` routine runs
; one loop in its mode and returns.  However it got there, a loop comes back by INT 30h, whose handler
; `leave` finds the stack of the entering routine again; real mode alone comes back by itself.
; SDM vol. 3A, chapters 3 and 5 (segments, rings), 8 (tasks), 10.8.5 (into IA-32e mode), 10.9 (protected
; and real mode), 22.2 (virtual-8086).

%define RING3 | 3

CODE32          equ     0x08            ; selectors; flat, base 0, 4 GiB
DATA32          equ     0x10
CODE16          equ     0x18            ; base LOW_BASE, 64 KiB
DATA16          equ     0x20
USER_CODE32     equ     0x28 RING3
USER_DATA32     equ     0x30 RING3
USER_CODE16     equ     0x38 RING3
USER_DATA16     equ     0x40 RING3
CODE64          equ     0x48
USER_CODE64     equ     0x50 RING3
TASK32          equ     0x58
TASK64          equ     0x60            ; two entries

TSS_SIZE        equ     104
TSS32_ESP0      equ     4
TSS32_SS0       equ     8
TSS64_RSP0      equ     4
TSS_IO_MAP      equ     102
DESCRIPTOR_BUSY equ     0x02            ; in the fifth byte of a TSS descriptor

CR0_PE          equ     1 << 0
CR0_PG          equ     1 << 31
CR4_PSE         equ     1 << 4
CR4_PAE         equ     1 << 5
IA32_EFER       equ     0xC0000080
EFER_LME        equ     1 << 8

PTE_USER        equ     0x07            ; present, writable, user
PTE_LARGE       equ     0x80            ; PS

EFLAGS_ONE      equ     1 << 1          ; always set
EFLAGS_IOPL3    equ     3 << 12         ; lets INT n through in V86
EFLAGS_VM       equ     1 << 17

RING3_STACK     equ     LOW_BASE + LOW_STACK

%macro LOAD_DATA_SEGMENTS 1
        mov     eax, %1
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
%endmacro

        section .text
        bits    32

; Loads the GDT, its segments and the 32-bit task register.
gdt_load:
        mov     eax, tss32
        mov     edi, gdt + TASK32
        call    .set_base
        mov     eax, tss64
        mov     edi, gdt + TASK64
        call    .set_base
        mov     dword [tss32 + TSS32_ESP0], ring0_stack_top
        mov     dword [tss32 + TSS32_SS0], DATA32
        mov     dword [tss64 + TSS64_RSP0], ring0_stack_top
        mov     word [tss32 + TSS_IO_MAP], TSS_SIZE             ; beyond the limit: none
        mov     word [tss64 + TSS_IO_MAP], TSS_SIZE
        lgdt    [gdt_pointer]
        jmp     CODE32:.loaded
.loaded:
        LOAD_DATA_SEGMENTS DATA32
        mov     ss, eax
load_task32:
        and     byte [gdt + TASK32 + 5], ~DESCRIPTOR_BUSY
        mov     eax, TASK32
        ltr     ax
        ret
gdt_load.set_base:
        mov     [edi + 2], ax
        shr     eax, 16
        mov     [edi + 4], al
        mov     [edi + 7], ah
        ret

; INT 30h from any 16- or 32-bit mode: back to whoever called `enter_…`.
leave:
        mov     eax, cr0
        and     eax, ~CR0_PG
        mov     cr0, eax
leave_unpaged:
        LOAD_DATA_SEGMENTS DATA32
        mov     ss, eax
        mov     esp, [entered_esp]
        popad
        ret

; To be first in an `enter_…`: what `leave` undoes.
%macro ENTER 0
        pushad
        mov     [entered_esp], esp
%endmacro

; ENTER_RING3 code selector, offset, data selector, stack pointer
%macro ENTER_RING3 4
        LOAD_DATA_SEGMENTS %3
        push    dword %3
        push    dword %4
        push    dword EFLAGS_ONE
        push    dword %1
        push    dword %2
        iretd
%endmacro

; --- without paging ---

enter_ring0_32:
        ENTER
        jmp     bench32

enter_ring3_32:
        ENTER
        ENTER_RING3 USER_CODE32, bench32, USER_DATA32, RING3_STACK

enter_ring0_16:
        ENTER
        LOAD_DATA_SEGMENTS DATA16
        mov     ss, eax
        mov     esp, LOW_STACK
        jmp     CODE16:bench16

enter_ring3_16:
        ENTER
        ENTER_RING3 USER_CODE16, bench16, USER_DATA16, LOW_STACK

enter_v86:
        ENTER
        push    dword LOW_SEGMENT       ; GS, FS, DS, ES
        push    dword LOW_SEGMENT
        push    dword LOW_SEGMENT
        push    dword LOW_SEGMENT
        push    dword LOW_SEGMENT       ; SS:ESP
        push    dword LOW_STACK
        push    dword EFLAGS_ONE | EFLAGS_IOPL3 | EFLAGS_VM
        push    dword LOW_SEGMENT       ; CS:EIP
        push    dword bench16
        iretd

enter_real:
        ENTER
        lidt    [real_mode_idt]
        LOAD_DATA_SEGMENTS DATA16       ; 64 KiB limits for real mode
        mov     ss, eax
        jmp     CODE16:real_mode

        section .low16
        bits    16
real_mode:
        mov     eax, cr0
        and     al, ~CR0_PE
        mov     cr0, eax
        jmp     LOW_SEGMENT:.real
.real:
        LOAD_DATA_SEGMENTS LOW_SEGMENT
        mov     ss, ax
        mov     esp, LOW_STACK
        call    loops16
        mov     eax, cr0
        or      al, CR0_PE
        mov     cr0, eax
        jmp     dword CODE32:real_mode_done

        section .text
        bits    32
real_mode_done:
        mov     eax, DATA32
        mov     ds, eax
        lidt    [idt_pointer]
        jmp     leave_unpaged

; --- with paging ---

; Ring 3 in 4 MiB pages.
enter_ring3_paged:
        ENTER
        mov     eax, page_directory
        mov     dword [eax], PTE_USER | PTE_LARGE               ; the first 4 MiB
        mov     cr3, eax
        mov     eax, cr4
        or      eax, CR4_PSE
        mov     cr4, eax
        mov     eax, cr0
        or      eax, CR0_PG
        mov     cr0, eax
        ENTER_RING3 USER_CODE32, bench32, USER_DATA32, RING3_STACK

enter_ring0_64:
        ENTER
        call    long_mode_on
        jmp     CODE64:bench64

enter_compatibility:
        ENTER
        call    long_mode_on
        ENTER_RING3 USER_CODE32, bench32, USER_DATA32, RING3_STACK

enter_ring3_64:
        ENTER
        call    long_mode_on
        ENTER_RING3 USER_CODE64, bench64, USER_DATA32, RING3_STACK

; Into compatibility mode, ring 0, with a 64-bit IDT and task register.
long_mode_on:
        mov     dword [pml4], pdpt + PTE_USER
        mov     dword [pdpt], page_directory64 + PTE_USER
        mov     dword [page_directory64], 0 << 21 | PTE_USER | PTE_LARGE        ; 2 MiB pages
        mov     dword [page_directory64 + 8], 1 << 21 | PTE_USER | PTE_LARGE
        mov     eax, cr4
        or      eax, CR4_PAE
        mov     cr4, eax
        mov     eax, pml4
        mov     cr3, eax
        mov     ecx, IA32_EFER
        rdmsr
        or      eax, EFER_LME
        wrmsr
        mov     eax, cr0
        or      eax, CR0_PG
        mov     cr0, eax
        call    idt64_build
        lidt    [idt64_pointer]
        and     byte [gdt + TASK64 + 5], ~DESCRIPTOR_BUSY
        mov     eax, TASK64
        ltr     ax
        ret

; 16-byte gates: exceptions and the way back.
idt64_build:
        mov     ecx, VECTORS
        mov     edi, idt64
        mov     ebx, exception64_entries
.gate:
        mov     eax, ebx
        mov     edx, GATE_INTERRUPT
        cmp     ecx, 1
        jne     .write
        mov     eax, leave64
        mov     edx, GATE_INTERRUPT | GATE_DPL3
.write:
        mov     [edi], ax
        mov     word [edi + 2], CODE64
        mov     [edi + 4], dx
        shr     eax, 16
        mov     [edi + 6], ax
        add     edi, 16
        add     ebx, 5
        loop    .gate
        ret

        bits    64
leave64:
        push    CODE32
        push    leave_long_mode
        o64 retf

exception64_entries:
%rep VECTORS - 1
        call    strict near exception64
%endrep

; Goes on as a 32-bit exception, with a frame of that kind.
exception64:
        pop     rbx
        sub     ebx, exception64_entries + 5
        mov     eax, ebx
        xor     edx, edx
        mov     ecx, 5
        div     ecx
        mov     ebx, eax
        xor     ebp, ebp
        mov     ecx, HAS_ERROR_CODE
        bt      rcx, rbx
        jnc     .frame
        pop     rbp
.frame:
        pop     rsi
        pop     rdi
        push    CODE32
        push    exception_in_long_mode
        o64 retf

        bits    32
exception_in_long_mode:
        mov     eax, DATA32
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        call    exception_report
        jmp     power_off

leave_long_mode:
        mov     eax, cr0
        and     eax, ~CR0_PG
        mov     cr0, eax
        mov     ecx, IA32_EFER
        rdmsr
        and     eax, ~EFER_LME
        wrmsr
        mov     eax, cr4
        and     eax, ~CR4_PAE
        mov     cr4, eax
        mov     eax, DATA32
        mov     ds, eax
        mov     ss, eax
        mov     esp, [entered_esp]
        lidt    [idt_pointer]
        call    load_task32
        jmp     leave_unpaged

        section .data
        align   8
; limit 15:0, base 15:0, base 23:16, access, flags and limit 19:16, base 31:24
%macro DESCRIPTOR 4                     ; base, limit, access, flags
        dw      (%2) & 0xFFFF, (%1) & 0xFFFF
        db      ((%1) >> 16) & 0xFF, %3, (%4) << 4 | ((%2) >> 16), (%1) >> 24
%endmacro
gdt:
        dq      0
        DESCRIPTOR 0, 0xFFFFF, 0x9A, 0xC                ; CODE32: G, D
        DESCRIPTOR 0, 0xFFFFF, 0x92, 0xC
        DESCRIPTOR LOW_BASE, 0xFFFF, 0x9A, 0            ; CODE16
        DESCRIPTOR LOW_BASE, 0xFFFF, 0x92, 0
        DESCRIPTOR 0, 0xFFFFF, 0xFA, 0xC                ; USER_CODE32
        DESCRIPTOR 0, 0xFFFFF, 0xF2, 0xC
        DESCRIPTOR LOW_BASE, 0xFFFF, 0xFA, 0            ; USER_CODE16
        DESCRIPTOR LOW_BASE, 0xFFFF, 0xF2, 0
        DESCRIPTOR 0, 0xFFFFF, 0x9A, 0xA                ; CODE64: G, L
        DESCRIPTOR 0, 0xFFFFF, 0xFA, 0xA                ; USER_CODE64
        DESCRIPTOR 0, TSS_SIZE - 1, 0x89, 0             ; TASK32, base by gdt_load
        DESCRIPTOR 0, TSS_SIZE - 1, 0x89, 0             ; TASK64
        dq      0
gdt_end:
                dw      0
gdt_pointer:    dw      gdt_end - gdt - 1
                dd      gdt
                dw      0
idt64_pointer:  dw      VECTORS * 16 - 1
                dd      idt64
                dw      0
real_mode_idt:  dw      0x3FF           ; the interrupt vector table
                dd      0

        section .bss
        alignb  4096
page_directory:         resb 4096
pml4:                   resb 4096
pdpt:                   resb 4096
page_directory64:       resb 4096
idt64:                  resb VECTORS * 16
tss32:                  resb TSS_SIZE
        alignb  16
tss64:                  resb TSS_SIZE
entered_esp:            resd 1          ; of the `enter_…` routine under way
        alignb  16
                        resb 1024
ring0_stack_top:
