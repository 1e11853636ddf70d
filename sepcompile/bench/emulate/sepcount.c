/*
 * A plugin of qemu-user (plugin API 1: qemu 4.2 to 8.2): how often each translated block ran, and which of its memory
 * accesses miss in a model of two data caches (LRU, write-allocate, no prefetcher).
 *
 * The guest marks what is counted: `orr x26,x26,x26` (AArch64), `orr r10,r10,r10` (A32) or `xchg ebx,ebx` (x86) starts,
 * the same with x27, r11 or edx stops. Each stop writes a file OUT.0, OUT.1, ...: one line per block, in hexadecimal but
 * for the counts: "address count l1-misses l2-misses instruction instruction ...". Caches stay warm between regions.
 *
 * Options: out=PATH, l1=BYTES, w1=WAYS, l2=BYTES, w2=WAYS, line=BYTES. Debian ships no qemu-plugin.h, hence prototypes.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGS = 0, INLINE_ADD_U64 = 0, READ_AND_WRITE = 3 };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
                                      void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *), int, int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
EXPORT int qemu_plugin_version = 1;

typedef struct Block {
    struct Block *next;
    uint64_t address, count, l1_misses, l2_misses;
    unsigned size;
    uint8_t *lengths, *bytes;
} Block;
typedef struct {
    unsigned sets, ways;
    uint64_t *lines; /* per set, the most recently used first; a line's number plus 1, 0 for none */
} Cache;

static Block *blocks;
static Cache l1, l2;
static unsigned line_shift, regions;
static const char *out = "sepcount";

static void open_cache(Cache *cache, unsigned bytes, unsigned ways) {
    cache->ways = ways;
    cache->sets = (bytes >> line_shift) / ways;
    cache->lines = calloc((size_t)cache->sets * ways, sizeof(uint64_t));
}

static bool hit(Cache *cache, uint64_t line) {
    uint64_t *set = cache->lines + line % cache->sets * cache->ways;
    unsigned way = 0;
    while (way < cache->ways - 1 && set[way] != line + 1) way++;
    bool found = set[way] == line + 1;
    memmove(set + 1, set, way * sizeof *set);
    set[0] = line + 1;
    return found;
}

static void on_access(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    Block *block = data;
    uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> line_shift;
    for (uint64_t line = address >> line_shift; line <= last; line++) {
        if (hit(&l1, line)) continue;
        block->l1_misses++;
        if (!hit(&l2, line)) block->l2_misses++;
    }
}

static void on_start(unsigned cpu, void *data) {
    for (Block *block = blocks; block; block = block->next) block->count = block->l1_misses = block->l2_misses = 0;
}

static void on_stop(unsigned cpu, void *data) {
    char path[4096];
    snprintf(path, sizeof path, "%s.%u", out, regions++);
    FILE *file = fopen(path, "w");
    if (!file) return;
    for (Block *block = blocks; block; block = block->next) {
        if (!block->count) continue;
        fprintf(file, "%llx %llu %llu %llu", (unsigned long long)block->address, (unsigned long long)block->count,
                (unsigned long long)block->l1_misses, (unsigned long long)block->l2_misses);
        const uint8_t *byte = block->bytes;
        for (unsigned i = 0; i < block->size; i++) {
            fputc(' ', file);
            for (unsigned k = 0; k < block->lengths[i]; k++) fprintf(file, "%02x", *byte++);
        }
        fputc('\n', file);
    }
    fclose(file);
}

static bool is_marker(const uint8_t *data, size_t size, bool stop) {
    static const uint8_t wide[2][2][4] = {{{0x5a, 0x03, 0x1a, 0xaa}, {0x7b, 0x03, 0x1b, 0xaa}},  /* AArch64 */
                                          {{0x0a, 0xa0, 0x8a, 0xe1}, {0x0b, 0xb0, 0x8b, 0xe1}}}; /* A32 */
    static const uint8_t narrow[2][2] = {{0x87, 0xdb}, {0x87, 0xd2}};
    if (size == 2) return !memcmp(data, narrow[stop], 2);
    return size == 4 && (!memcmp(data, wide[0][stop], 4) || !memcmp(data, wide[1][stop], 4));
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    Block *block = calloc(1, sizeof *block);
    block->address = qemu_plugin_tb_vaddr(tb);
    block->size = (unsigned)qemu_plugin_tb_n_insns(tb);
    block->lengths = malloc(block->size);
    block->bytes = malloc((size_t)block->size * 16);
    uint8_t *byte = block->bytes;
    for (unsigned i = 0; i < block->size; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        size_t size = qemu_plugin_insn_size(insn);
        const uint8_t *data = qemu_plugin_insn_data(insn);
        memcpy(byte, data, size);
        byte += size;
        block->lengths[i] = (uint8_t)size;
        if (is_marker(data, size, false)) qemu_plugin_register_vcpu_insn_exec_cb(insn, on_start, NO_REGS, 0);
        if (is_marker(data, size, true)) qemu_plugin_register_vcpu_insn_exec_cb(insn, on_stop, NO_REGS, 0);
        qemu_plugin_register_vcpu_mem_cb(insn, on_access, NO_REGS, READ_AND_WRITE, block);
    }
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &block->count, 1);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    unsigned values[] = {32768, 4, 524288, 8, 64};
    static const char *const names[] = {"l1=", "w1=", "l2=", "w2=", "line="};
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) out = strdup(argv[i] + 4);
        for (int k = 0; k < 5; k++)
            if (!strncmp(argv[i], names[k], strlen(names[k]))) values[k] = (unsigned)atoi(argv[i] + strlen(names[k]));
    }
    line_shift = (unsigned)__builtin_ctz(values[4]);
    open_cache(&l1, values[0], values[1]);
    open_cache(&l2, values[2], values[3]);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
