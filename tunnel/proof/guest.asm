; The pattern guest: fills its memory with words that encode their own address, then
; keeps dirtying a working set, so that a migration can be verified page by page.
;
;       nasm -f bin -o guest.bin guest.asm
;
; A Multiboot v1 image (Multiboot Specification 0.6.96, section 3) without ELF: QEMU
; and libvirt start it as a kernel, so it needs neither a disk nor a boot sector.
; pattern_guest.py patches the parameter block and reads the state block; both layouts
; are repeated there.
;
; Content of a filled page at physical address A:
;       word 0                  a counter, 0 after the fill
;       word at A + 8k, k > 0   tag + A + 8k
; Counter number `dirtied % working_set` is the next to be incremented. The page is
; incremented BEFORE `dirtied`: at any stop point that one page may be one ahead.

LOAD            equ 0x100000            ; where the loader puts this file
STATE           equ 0x101000            ; the state block, on a separate page
STACK_TOP       equ 0x110000
PML4            equ 0x110000
PDPT            equ 0x111000
PD              equ 0x112000            ; one page directory for each GiB
GIBIBYTES       equ 64                  ; mapped one to one, with 2 MiB pages
TABLES_END      equ PD + GIBIBYTES * 4096
FIRST_PAGE      equ 0x200000            ; the pattern starts above code and tables
LAST_GIB        equ GIBIBYTES << 30

MB_MAGIC        equ 0x1BADB002
MB_LOADED       equ 0x2BADB002
MB_FLAGS        equ 1 << 16 | 1 << 1    ; address fields are valid; memory map required
MB_HAS_MMAP     equ 1 << 6
MMAP_LENGTH     equ 44                  ; offsets in the loader's information
MMAP_ADDRESS    equ 48
ENTRY_BASE      equ 4                   ; offsets in one entry of its memory map
ENTRY_LENGTH    equ 12
ENTRY_TYPE      equ 20
USABLE          equ 1

COM1            equ 0x3f8
PIC1            equ 0x20
PIC2            equ 0xa0
PIT             equ 0x40
HZ              equ 100
PIT_DIVISOR     equ 11932               ; 1193182 / HZ
VECTOR_TIMER    equ 0x20
VECTOR_SPURIOUS equ 0x27

BOOTED          equ 1
FILLED          equ 2
MAX_REGIONS     equ 16

struc state
.magic          resq 1
.phase          resd 1
.regions        resd 1                  ; how many
.filled         resq 1                  ; pages
.working_set    resq 1                  ; pages, never more than .filled
.dirtied        resq 1                  ; increments since the fill
.ticks          resq 1                  ; heartbeat, HZ per second
.tag            resq 1
.reserved       resq 1
.region         resq 2 * MAX_REGIONS    ; start, end
endstruc
%define STATE(field) STATE + state. %+ field

; QEMU's emulation (observed: TCG of 7.2) can lose a write during a migration: when all
; pages dirtied since the last sync of the dirty bitmap are still pending, it cleans the
; bitmap but not the processor's TLB, and a later write through such an entry sets no
; dirty bit: a page that is written repeatedly arrives stale. A fresh TLB entry honours
; the bitmap, so every page is invalidated just before it is written.
%macro tracked 1
        invlpg  [%1]
%endmacro

        org     LOAD
        bits    32

header: dd      MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)
        dd      header, LOAD, image_end, TABLES_END, entry

        align   16
parameters:
        db      "MTGPARAM"
working_set:
        dq      0                       ; pages
rate:   dq      0                       ; pages per second; 0 = only tick; all ones = full speed
tag:    dq      0

; -- 32 bits: page tables, long mode ------------------------------------------------

entry:  cli
        mov     esp, STACK_TOP
        cmp     eax, MB_LOADED
        jne     halt
        test    dword [ebx], MB_HAS_MMAP
        jz      halt
        mov     dword [PML4], PDPT | 3
        mov     edi, PDPT
        mov     eax, PD | 3
        mov     ecx, GIBIBYTES
.pdpt:  mov     [edi], eax
        add     eax, 4096
        add     edi, 8
        loop    .pdpt
        mov     edi, PD
        mov     eax, 0x83               ; present, writable, 2 MiB
        xor     edx, edx
        mov     ecx, GIBIBYTES * 512
.pd:    mov     [edi], eax
        mov     [edi + 4], edx
        add     eax, 0x200000
        adc     edx, 0
        add     edi, 8
        loop    .pd
        mov     eax, cr4
        or      eax, 1 << 5             ; PAE
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, 0xc0000080         ; EFER
        rdmsr
        or      eax, 1 << 8             ; LME
        wrmsr
        mov     eax, cr0
        or      eax, 1 << 31            ; PG
        mov     cr0, eax
        lgdt    [gdtr]
        jmp     0x08:long_mode
halt:   hlt
        jmp     halt

; -- 64 bits ------------------------------------------------------------------------

        bits    64
        default abs
long_mode:
        mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        lidt    [idtr]
        call    serial_init
        call    find_regions
        mov     rax, [tag]
        mov     [STATE(tag)], rax
        mov     rax, [state_magic]
        mov     [STATE(magic)], rax
        mov     dword [STATE(phase)], BOOTED
        mov     al, 'B'
        call    putc
        call    timer_init
        call    fill
        mov     dword [STATE(phase)], FILLED
        mov     al, 'F'
        call    putc
        mov     rbp, [STATE(ticks)]
.tick:  hlt                             ; interrupts are on: the next tick ends it
        cmp     rbp, [STATE(ticks)]
        je      .tick
        mov     al, 'T'                 ; the timer works: proof/accelerator.py tests this
        call    putc
        cmp     qword [STATE(working_set)], 0
        jne     dirty
idle:   tracked STACK_TOP - 8
        hlt
        jmp     idle

; Each tick adds `rate` credit and a page costs HZ, so any rate is exact. Ticks missed
; while pages are pending are not made up for: no burst after a pause. Full speed is a
; practically unlimited credit. Only the timer interrupt uses the stack here.
dirty:  xor     ebx, ebx                ; credit
        cmp     qword [rate], -1
        cmove   rbx, [rate]
.rewind:
        mov     rcx, [STATE(working_set)]
        mov     esi, STATE(region)
        mov     rdi, [rsi]              ; rdi = next page, rsi = its region, rcx = pages left
        jmp     .next
.wait:  tracked STACK_TOP - 8
        cli                             ; no tick between the check and the hlt
        mov     rax, [STATE(ticks)]
        cmp     rax, rbp
        jne     .due
        sti
        hlt
        jmp     .wait
.due:   sti
        mov     rbp, rax
        add     rbx, [rate]
.next:  cmp     rbx, HZ
        jb      .wait
        sub     rbx, HZ
        tracked STACK_TOP - 8
        tracked rdi
        inc     qword [rdi]
        tracked STATE
        inc     qword [STATE(dirtied)]
        dec     rcx
        jz      .rewind
        add     rdi, 4096
        cmp     rdi, [rsi + 8]
        jb      .next
        add     rsi, 16
        mov     rdi, [rsi]
        jmp     .next

; ebx = the loader's information. Whole pages of usable memory in [FIRST_PAGE, LAST_GIB).
find_regions:
        mov     r8d, [rbx + MMAP_ADDRESS]
        mov     r9d, [rbx + MMAP_LENGTH]
        add     r9, r8
        mov     edi, STATE(region)
        mov     r10d, FIRST_PAGE
        mov     r11, LAST_GIB
.entry: cmp     r8, r9
        jae     .done
        cmp     dword [STATE(regions)], MAX_REGIONS
        jae     .done
        cmp     dword [r8 + ENTRY_TYPE], USABLE
        jne     .skip
        mov     rax, [r8 + ENTRY_BASE]
        mov     rdx, rax
        add     rdx, [r8 + ENTRY_LENGTH]
        add     rax, 4095
        and     rax, -4096
        and     rdx, -4096
        cmp     rax, r10
        cmovb   rax, r10
        cmp     rdx, r11
        cmova   rdx, r11
        cmp     rax, rdx
        jae     .skip
        mov     [rdi], rax
        mov     [rdi + 8], rdx
        add     rdi, 16
        inc     dword [STATE(regions)]
.skip:  mov     eax, [r8]               ; the entry's size does not count this field
        lea     r8, [r8 + rax + 4]
        jmp     .entry
.done:  ret

fill:   mov     esi, STATE(region)
        mov     ebx, [STATE(regions)]
        mov     rdx, [tag]
.region:
        test    ebx, ebx
        jz      .done
        mov     rdi, [rsi]
.page:  lea     rax, [rdi + rdx]
        mov     ecx, 4096 / 64
.words: 
%assign word 0
%rep 8
        mov     [rdi + word * 8], rax
        add     rax, 8
%assign word word + 1
%endrep
        add     rdi, 64
        dec     ecx
        jnz     .words
        mov     qword [rdi - 4096], 0
        inc     qword [STATE(filled)]
        cmp     rdi, [rsi + 8]
        jb      .page
        add     rsi, 16
        dec     ebx
        jmp     .region
.done:  mov     rax, [working_set]
        mov     rdx, [STATE(filled)]
        cmp     rax, rdx
        cmova   rax, rdx
        mov     [STATE(working_set)], rax
        ret

; -- hardware -----------------------------------------------------------------------

serial_init:                            ; 115200 baud, 8N1, no interrupts
        mov     dx, COM1 + 1
        xor     eax, eax
        out     dx, al
        mov     dx, COM1 + 3
        mov     al, 0x80
        out     dx, al
        mov     dx, COM1
        mov     al, 1
        out     dx, al
        inc     edx
        xor     eax, eax
        out     dx, al
        mov     dx, COM1 + 3
        mov     al, 3
        out     dx, al
        ret

putc:   mov     ah, al                  ; without a serial port, the status reads as ready
        mov     dx, COM1 + 5
.busy:  in      al, dx
        test    al, 0x20
        jz      .busy
        mov     dx, COM1
        mov     al, ah
        out     dx, al
        ret

timer_init:
        mov     al, 0x11                ; both PICs: start, vectors, wiring, 8086 mode
        out     PIC1, al
        out     PIC2, al
        mov     al, VECTOR_TIMER
        out     PIC1 + 1, al
        mov     al, VECTOR_TIMER + 8
        out     PIC2 + 1, al
        mov     al, 4
        out     PIC1 + 1, al
        mov     al, 2
        out     PIC2 + 1, al
        mov     al, 1
        out     PIC1 + 1, al
        out     PIC2 + 1, al
        mov     al, 0xfe                ; timer only
        out     PIC1 + 1, al
        mov     al, 0xff
        out     PIC2 + 1, al
        mov     al, 0x34                ; channel 0, rate generator
        out     PIT + 3, al
        mov     al, PIT_DIVISOR & 255
        out     PIT, al
        mov     al, PIT_DIVISOR >> 8
        out     PIT, al
        sti
        ret

on_timer:
        push    rax
        tracked STATE
        inc     qword [STATE(ticks)]
        mov     al, 0x20                ; end of interrupt
        out     PIC1, al
        pop     rax
on_spurious:
        iretq

; -- tables -------------------------------------------------------------------------

        align   8
gdt:    dq      0
        dq      0x00af9a000000ffff      ; 64-bit code
        dq      0x00cf92000000ffff      ; data
gdtr:   dw      $ - gdt - 1
        dd      gdt

%macro  gate 1                          ; an interrupt gate of 16 bytes
        dw      (LOAD + %1 - $$) & 0xffff, 0x08, 0x8e00, (LOAD + %1 - $$) >> 16
        dq      0
%endmacro
        align   16
idt:    times VECTOR_TIMER dq 0, 0
        gate    on_timer
        times VECTOR_SPURIOUS - VECTOR_TIMER - 1 dq 0, 0
        gate    on_spurious
idtr:   dw      $ - idt - 1
        dq      idt

state_magic:
        db      "MTGSTATE"

        times   STATE - LOAD - ($ - $$) db 0
        times   state_size db 0
image_end:
