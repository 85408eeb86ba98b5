// The threads that share a layer's work: one pool a process, asleep between nets.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include <sched.h>
#include <unistd.h>

#include "simd.hpp"

#if defined(__x86_64__) || defined(__i386__)
inline void pause_a_little() { _mm_pause(); }
#elif defined(__aarch64__)
inline void pause_a_little() { __asm__ volatile("yield"); }
#else
inline void pause_a_little() {}
#endif

// Work in pieces that threads take as they come, and points where all wait for each other. Which thread
// takes a piece decides nothing about its result.
class Team {
 public:
  explicit Team(int size) : size(size) {}
  const int size;

  // Calls `piece(i)` for every i below n that no other thread has taken; returns when all are done.
  template <typename Piece>
  void share(int n, Piece &&piece) {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) piece(i);
    wait();
  }

 private:
  void wait() {
    const unsigned turn = turns.load(std::memory_order_acquire);
    if (waiting.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
      waiting.store(0, std::memory_order_relaxed);
      next.store(0, std::memory_order_relaxed);
      turns.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; turns.load(std::memory_order_acquire) == turn; spins++) {
      if (spins < 4096) pause_a_little();
      else sched_yield();  // another program has the processor that the last thread needs
    }
  }

  alignas(64) std::atomic<int> next{0};
  alignas(64) std::atomic<int> waiting{0};
  alignas(64) std::atomic<unsigned> turns{0};
};

class Pool {
 public:
  // Runs `work(team, thread)` on so many threads at once, this one among them.
  void run(int threads, const std::function<void(Team &, int)> &work) {
    const std::lock_guard<std::mutex> one_at_a_time(busy);
    threads = 1 + hired(threads - 1);
    Team team(threads);
    if (threads > 1) {
      std::unique_lock<std::mutex> lock(mutex);
      job = &work;
      members = &team;
      taking_part = threads;
      at_work.store(threads - 1);
      jobs.fetch_add(1);
      lock.unlock();
      begin.notify_all();
    }
    work(team, 0);
    for (int spins = 0; at_work.load(std::memory_order_acquire) > 0; spins++) {
      if (spins < 4096) pause_a_little();
      else sched_yield();
    }
  }

 private:
  // So many helpers, or as many as the system gives: who takes the work changes nothing about it.
  int hired(int wanted) {
    try {
      while (static_cast<int>(helpers.size()) < wanted) {
        const int number = static_cast<int>(helpers.size()) + 1;
        const unsigned from = jobs.load();
        helpers.emplace_back([this, number, from] { help(number, from); });
      }
    } catch (const std::system_error &) {
    }
    return std::min(wanted, static_cast<int>(helpers.size()));
  }

  [[noreturn]] void help(int number, unsigned done) {
    for (;;) {
      // The next layer comes within microseconds; after that, sleep.
      for (int spins = 0; jobs.load(std::memory_order_acquire) == done && spins < 20000; spins++)
        pause_a_little();
      std::unique_lock<std::mutex> lock(mutex);
      begin.wait(lock, [&] { return jobs.load() != done; });
      done = jobs.load();
      const bool mine = number < taking_part;
      const auto *work = job;
      Team *team = members;
      lock.unlock();
      if (mine) {
        (*work)(*team, number);
        at_work.fetch_sub(1, std::memory_order_release);
      }
    }
  }

  std::mutex busy, mutex;
  std::condition_variable begin;
  std::vector<std::thread> helpers;
  std::atomic<unsigned> jobs{0};
  std::atomic<int> at_work{0};
  const std::function<void(Team &, int)> *job = nullptr;
  Team *members = nullptr;
  int taking_part = 0;
};

// Never destroyed: its threads sleep in it when the process ends. A forked process has none of its
// parent's threads, and so a pool of its own.
inline Pool &the_pool() {
  static std::mutex mutex;
  static Pool *mine = nullptr;
  static pid_t owner = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  if (owner != getpid()) {
    mine = new Pool;
    owner = getpid();
  }
  return *mine;
}
