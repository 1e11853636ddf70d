/*
 * Runs a compiled layer through its C entry point, on one thread: once to warm the caches, once counted.
 *
 *     harness LIBRARY SYMBOL WEIGHTS X Y Y_BYTES BATCH MAPS OFFSET...
 *
 * WEIGHTS, X and Y are raw files, OFFSET the position of each weight in the order of their names. MAPS receives the
 * process's memory map, which tells the library's addresses.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "marks.h"

typedef int32_t (*init_t)(void *, const void *, const size_t *, void *, size_t, void *, int32_t);
typedef int32_t (*run_t)(const void *, const void *, void *, int32_t);

static void fail(const char *what) {
    fprintf(stderr, "harness: %s\n", what);
    exit(2);
}

static void *memory(size_t bytes) {
    void *result = NULL;
    if (posix_memalign(&result, 4096, bytes + 64)) fail("out of memory");
    memset(result, 0, bytes + 64);
    return result;
}

static void *content(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    void *result = memory((size_t)size);
    if (fread(result, 1, (size_t)size, file) != (size_t)size) fail(path);
    fclose(file);
    return result;
}

static void *function(void *library, const char *symbol, const char *suffix) {
    char name[512];
    snprintf(name, sizeof name, "%s_%s", symbol, suffix);
    void *result = dlsym(library, name);
    if (!result) fail(name);
    return result;
}

static void copy_maps(const char *path) {
    FILE *from = fopen("/proc/self/maps", "r"), *to = fopen(path, "w");
    if (!from || !to) fail(path);
    for (int c; (c = fgetc(from)) != EOF;) fputc(c, to);
    fclose(from);
    fclose(to);
}

int main(int argc, char **argv) {
    if (argc < 9) fail("arguments");
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(dlerror());
    size_t arena_bytes = ((size_t(*)(int32_t))function(library, argv[2], "arena_bytes"))(1);
    void *layer = memory(((size_t(*)(void))function(library, argv[2], "layer_bytes"))());
    init_t init = (init_t)function(library, argv[2], "init");
    run_t run = (run_t)function(library, argv[2], "run");
    void *weights = content(argv[3]), *x = content(argv[4]), *arena = memory(arena_bytes);
    size_t y_bytes = strtoull(argv[6], NULL, 10);
    void *y = memory(y_bytes);
    int32_t batch = atoi(argv[7]);
    size_t *offsets = memory((size_t)argc * sizeof(size_t));
    for (int i = 9; i < argc; i++) offsets[i - 9] = strtoull(argv[i], NULL, 10);
    if (init(layer, weights, offsets, arena, arena_bytes, NULL, 1)) fail("the layer refuses to start");
    copy_maps(argv[8]);
    if (run(layer, x, y, batch)) fail("the layer failed");
    START_COUNTING();
    run(layer, x, y, batch);
    STOP_COUNTING();
    FILE *file = fopen(argv[5], "wb");
    if (!file || fwrite(y, 1, y_bytes, file) != y_bytes || fclose(file)) fail(argv[5]);
    return 0;
}
