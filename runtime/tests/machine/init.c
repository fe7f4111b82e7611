// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

/*
 * A guest of one file for the runtime's own tests: PID 1, static, no libraries of ours.
 * What it does is the word after "test=" on the kernel's command line:
 *   probe  print the answer and restart
 *   flood  print for ever
 *   echo   call host port 1000 and say hello; then serve port 2000, where each line is a host port
 *          to call, answered by "ok" or "no"
 *   sum    read all of the second disk and print its length, its sum (as support.rs has it) and the
 *          milliseconds that reading took
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int call_host(unsigned port) {
    struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (s < 0) return -1;
    if (connect(s, (struct sockaddr *)&to, sizeof to) == 0) return s;
    close(s);
    return -1;
}

static void serve(void) {
    struct sockaddr_vm on = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 2000};
    int l = socket(AF_VSOCK, SOCK_STREAM, 0);
    bind(l, (struct sockaddr *)&on, sizeof on);
    listen(l, 16);
    int hello = call_host(1000);
    if (hello >= 0) write(hello, "hello", 5);
    for (;;) {
        int c = accept(l, 0, 0);
        char line[32] = {0};
        if (read(c, line, sizeof line - 1) > 0) {
            int s = call_host((unsigned)atoi(line));
            if (s >= 0) close(s);
            write(c, s >= 0 ? "ok" : "no", 2);
            read(c, line, sizeof line);
        }
        close(c);
    }
}

static void sum(void) {
    static unsigned long long words[32768];
    unsigned long long sum = 0, length = 0, spent = 0;
    struct timespec from, to;
    char line[128];
    mount("dev", "/dev", "devtmpfs", 0, 0);
    int disk = open("/dev/vdb", O_RDONLY);
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &from);
        long got = read(disk, words, sizeof words);
        clock_gettime(CLOCK_MONOTONIC, &to);
        spent += (to.tv_sec - from.tv_sec) * 1000000000ull + to.tv_nsec - from.tv_nsec;
        if (got <= 0) break;
        length += got;
        for (long i = 0; i < got / 8; i++) sum = sum * 31 + words[i];
    }
    write(1, line, snprintf(line, sizeof line, "length %llu sum %016llx ms %llu\n", length, sum, spent / 1000000));
}

int main(void) {
    static char line[4096], text[8192];
    mount("proc", "/proc", "proc", 0, 0);
    read(open("/proc/cmdline", O_RDONLY), line, sizeof line - 1);
    if (strstr(line, "test=echo")) serve();
    if (strstr(line, "test=flood")) {
        memset(text, 'x', sizeof text);
        for (;;) write(1, text, sizeof text);
    }
    if (strstr(line, "test=sum")) sum();
    if (strstr(line, "test=probe")) write(1, "test-answer\n", 12);
    sleep(1);
    reboot(RB_AUTOBOOT);
    return 0;
}
