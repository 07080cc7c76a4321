; Multiboot 1 header with the address fields (flag 16: "a.out kludge"), the entry point, the order of
; things.  Multiboot Specification 0.6.96, §3.1 (header), §3.2 (state at entry), §3.3 (information).

MULTIBOOT_MAGIC         equ     0x1BADB002
MULTIBOOT_FLAGS         equ     1 << 16 | 1 << 1        ; address fields are valid; wants memory information
MULTIBOOT_LOADED        equ     0x2BADB002              ; EAX at entry

MBI_HAS_MEMORY          equ     1 << 0
MBI_HAS_COMMAND_LINE    equ     1 << 2
MBI_HAS_MEMORY_MAP      equ     1 << 6
MBI_HAS_LOADER_NAME     equ     1 << 9

struc mbi
        .flags:         resd 1
        .mem_lower:     resd 1          ; KiB from 0
        .mem_upper:     resd 1          ; KiB from 1 MiB
        .boot_device:   resd 1
        .cmdline:       resd 1
        .mods_count:    resd 1
        .mods_addr:     resd 1
        .syms:          resd 4
        .mmap_length:   resd 1          ; bytes
        .mmap_addr:     resd 1
        .drives_length: resd 1
        .drives_addr:   resd 1
        .config_table:  resd 1
        .loader_name:   resd 1
endstruc

        section .text
        bits    32

        align   4
multiboot_header:
        dd      MULTIBOOT_MAGIC
        dd      MULTIBOOT_FLAGS
        dd      -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
        dd      multiboot_header
        dd      IMAGE_BASE              ; load_addr
        dd      image_end               ; load_end_addr
        dd      bss_end                 ; bss_end_addr
        dd      start

start:
        cli
        cld
        mov     esp, stack_top
        mov     [boot_magic], eax
        mov     [boot_info], ebx

        call    serial_init
        PRINT   10, "Ring3 embedded guest", 10
        call    read_command_line
        call    gdt_load
        call    interrupts_init

        call    report_machine
        call    copy_low_segment
        call    critical_test
        call    bench_modes

        cmp     dword [failures], 0
        jne     .failed
        PRINT   10, "All tests passed.", 10
        jmp     .tested
.failed:
        PRINT   10
        mov     eax, [failures]
        call    print_dec
        PRINT   " tests FAILED.", 10
.tested:
        test    byte [once], 1
        jnz     power_off
        jmp     echo_keys

; Sets `once` if that word stands on the command line.
read_command_line:
        cmp     dword [boot_magic], MULTIBOOT_LOADED
        jne     .done
        mov     ebx, [boot_info]
        test    dword [ebx + mbi.flags], MBI_HAS_COMMAND_LINE
        jz      .done
        mov     esi, [ebx + mbi.cmdline]
.word:
        cmp     byte [esi], 0
        je      .done
        cmp     dword [esi], "once"
        jne     .skip
        cmp     byte [esi + 4], " "
        ja      .skip                   ; a longer word
        mov     byte [once], 1
.skip:
        lodsb
        test    al, al
        jz      .done
        cmp     al, " "
        jne     .skip
        jmp     .word
.done:
        ret

; Brings the 16-bit code to where real mode can reach it.
copy_low_segment:
        mov     esi, section..low16.start
        mov     edi, LOW_BASE
        mov     ecx, low16_size
        rep     movsb
        ret

        section .bss
boot_magic:     resd 1
boot_info:      resd 1
failures:       resd 1                  ; tests that failed
once:           resb 1                  ; power off after the tests
        alignb  16
                resb 8192
stack_top:
