/* A plugin of QEMU that counts the instructions of a process and prints their number at its end.
   The declarations are those of qemu-plugin.h, version 1, which packages of qemu-user leave out. */
#include <inttypes.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))
#define ADD_U64 0

struct qemu_plugin_tb;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
                                           void (*call)(uint64_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block, int op, void* to,
                                              uint64_t amount);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*call)(uint64_t, void*), void* data);

EXPORT int qemu_plugin_version = 1;
static uint64_t executed;

static void on_block(uint64_t id, struct qemu_plugin_tb* block) {
  qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed,
                                           qemu_plugin_tb_n_insns(block));
}

static void at_exit(uint64_t id, void* data) { fprintf(stderr, "%" PRIu64 "\n", executed); }

EXPORT int qemu_plugin_install(uint64_t id, const void* info, int arguments, char** values) {
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
  qemu_plugin_register_atexit_cb(id, at_exit, 0);
  return 0;
}
