/* The instructions that sepcount.c takes for the start and the end of what is counted: they change nothing, but for
 * the upper half of a register of x86. */
#if defined(__aarch64__)
#define START_COUNTING() __asm__ volatile("orr x26, x26, x26" ::: "memory")
#define STOP_COUNTING() __asm__ volatile("orr x27, x27, x27" ::: "memory")
#elif defined(__arm__)
#define START_COUNTING() __asm__ volatile(".arm\n orr r10, r10, r10" ::: "memory")
#define STOP_COUNTING() __asm__ volatile(".arm\n orr r11, r11, r11" ::: "memory")
#elif defined(__x86_64__)
#define START_COUNTING() __asm__ volatile("xchg %%ebx, %%ebx" ::: "rbx", "memory")
#define STOP_COUNTING() __asm__ volatile("xchg %%edx, %%edx" ::: "rdx", "memory")
#endif
