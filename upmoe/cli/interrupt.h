#pragma once
#include <sys/types.h>

#include <atomic>

namespace upmoe::cli {

// The rule for all verbs: Ctrl-C, SIGTERM and SIGHUP end the program at once, with a sentence and exit code
// 130. The programs that it has started end with it, and its temporary folder is removed.
void end_when_interrupted();

// From here on the first of them sets the flag instead, for a verb that has more to clean up or to finish. A
// second one ends the program at once.
const std::atomic<bool>& catch_interrupts();

// Such signals wait: for a program that this one becomes, until it calls end_when_interrupted() or, in
// Python, guarded() (python/upmoe/guard.py).
void hold_interrupts();

// While there is one, an interrupt waits; for what is short, and must be done whole. One at a time.
class Uninterrupted {
 public:
  Uninterrupted();
  ~Uninterrupted();
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
};

// A program that we have started, which must not outlive us. Few at a time.
void note_child(pid_t child);
void forget_child(pid_t child);

// The folder of our temporary files, while there is one; nullptr: no longer. The path has to stay where it
// is.
void note_temporary_folder(const char* path);

// The names that files in it may have.
inline constexpr const char* kTemporaryFiles[] = {"tokens.bin", "tokens.idx", "tokens.bin.upmoe-partial",
                                                  "tokens.idx.upmoe-partial"};

}  // namespace upmoe::cli
