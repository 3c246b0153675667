// Cookbook: ten thousand entities of a game, each with a coroutine, in a loop that is not ours.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/game_loop.cpp -o game && ./game
//
// What it teaches: the game keeps its own loop and calls poll() once a frame. Entities sleep, wait
// for an alarm and move from frame to frame; when one goes, its task_scope ends its coroutine where
// it stands. The world has a time_stream for pauses and slow motion; the menu's tasks go on.
// Look at: what moves in each second, and the frame times; 16.7 ms is all there is for one.
// --virtual does not wait between the frames; --seed N makes other entities.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct world_state {
    asyncio::event_loop& loop;
    asyncio::time_stream clock{loop};
    asyncio::event alarm = {};
    double travelled = 0; // by all entities
    int past_the_end = 0; // those that went on after their own death
};

class entity {
public:
    entity(world_state& world, unsigned seed, std::unique_ptr<entity>& place)
        : world_(world), place_(place), random_(seed * 7919 + 1), tasks_(world.loop) {
        tasks_.create_task(live(), {.clock = &world.clock});
    }

private:
    // Sleeps and moves in turn. One in a hundred waits for the alarm instead, and dies of it.
    asyncio::coro<> live() {
        const bool timid = random_() % 100 == 0;
        for (;;) {
            co_await asyncio::sleep(0.1s + 0.001s * static_cast<double>(random_() % 900));
            if (timid) {
                co_await world_.alarm.wait();
                place_.reset(); // the end of this entity, and of this coroutine at its next await
                co_await asyncio::sleep(0s);
                ++world_.past_the_end;
            }
            for (int frame = 0; frame < 10; ++frame) {
                const asyncio::duration passed = co_await asyncio::next_frame();
                world_.travelled += 3 * passed.total_seconds();
            }
        }
    }
    world_state& world_;
    std::unique_ptr<entity>& place_; // what owns it
    std::minstd_rand random_;
    asyncio::task_scope tasks_; // the last member: what its coroutines use goes after them
};

class game {
public:
    game(unsigned seed, bool waits) : waits_(waits) {
        for (auto& e : entities_) e = std::make_unique<entity>(world_, seed++, e);
        loop_.create_task([this] { return blink(); });
        frame(); // all begin
    }
    void play() {
        second("the world runs");
        world_.clock.pause();
        claim(second("the world is paused") == 0, "in a pause no time passes, and nobody moves");
        world_.clock.resume();
        world_.clock.set_scale(0.25);
        const double slow = second("slow motion");
        claim(slow > 0.249 && slow < 0.251, "in slow motion it is a quarter of a second");
        world_.clock.set_scale(1);
        claim(blinks_ >= 29 && blinks_ <= 31, "the menu blinked all the time");
        for (std::size_t i = 0; i < entities_.size(); i += 2) entities_[i].reset();
        claim(tasks() == 5'000, "half of them died where they stood, before the next frame");
        world_.alarm.set();
        second("half are dead, and the alarm rings");
        const auto dead = std::count(entities_.begin(), entities_.end(), nullptr);
        claim(dead > 5'000 && tasks() + dead == 10'000 && world_.past_the_end == 0,
              "those that feared it ended themselves, and their tasks");
        for (std::size_t i = 0; i < std::size(limits); ++i)
            std::printf("frames under %5.1f ms: %3d\n", limits[i], frames_[i]);
    }

private:
    // The menu goes by the loop's clock, whatever becomes of the world's.
    asyncio::coro<> blink() {
        for (;; ++blinks_) co_await asyncio::sleep(0.1s);
    }
    // Those of the entities; there is one for the menu, too.
    std::ptrdiff_t tasks() const { return static_cast<std::ptrdiff_t>(loop_.metrics().tasks) - 1; }
    void frame() {
        const auto begin = std::chrono::steady_clock::now();
        loop_.advance(std::chrono::duration<double>(1.0 / 60));
        loop_.poll();
        const auto took = std::chrono::steady_clock::now() - begin;
        ++frames_[std::lower_bound(limits, std::end(limits) - 1, took / 1.0ms) - limits];
    }
    // Sixty frames; gives the seconds that the world's clock went on.
    double second(const char* what) {
        const asyncio::time_point begin = world_.clock.now();
        const double before = world_.travelled;
        const auto start = std::chrono::steady_clock::now();
        for (int i = 1; i <= 60; ++i) {
            frame();
            if (waits_) std::this_thread::sleep_until(start + i * 1s / 60);
        }
        const double passed = (world_.clock.now() - begin).total_seconds();
        std::printf("%4.2f s of the world  %5td entities  %5.0f m travelled  %s\n", passed, tasks(),
                    world_.travelled - before, what);
        return passed;
    }

    static constexpr double limits[] = {0.5, 1, 2, 4, 8, 16.7, 999};
    asyncio::event_loop loop_{{.clock = asyncio::clock_kind::manual}};
    world_state world_{loop_};
    std::vector<std::unique_ptr<entity>> entities_{10'000};
    int frames_[std::size(limits)] = {};
    int blinks_ = 0;
    bool waits_;
};

int main(int argc, char** argv) {
    unsigned seed = 1;
    bool waits = true;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        char* end = nullptr;
        if (word == "--seed" && i + 1 < argc)
            seed = static_cast<unsigned>(std::strtoul(argv[++i], &end, 10));
        if (word == "--virtual") waits = false;
        else if (!end || *end) {
            std::fputs("Runs the coroutines of ten thousand entities in the frames of a game.\n"
                       "usage: game [--virtual] [--seed N]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    std::printf("seed %u\n", seed);
    game(seed, waits).play();
    return broken == 0 ? 0 : 1;
}
// Output:
// seed 1
// 1.00 s of the world  10000 entities   5715 m travelled  the world runs
// 0.00 s of the world  10000 entities      0 m travelled  the world is paused
// holds:  in a pause no time passes, and nobody moves
// 0.25 s of the world  10000 entities    365 m travelled  slow motion
// holds:  in slow motion it is a quarter of a second
// holds:  the menu blinked all the time
// holds:  half of them died where they stood, before the next frame
// 1.00 s of the world   4951 entities   3443 m travelled  half are dead, and the alarm rings
// holds:  those that feared it ended themselves, and their tasks
// frames under   0.5 ms: 237
// frames under   1.0 ms:   2
// frames under   2.0 ms:   2
// frames under   4.0 ms:   0
// frames under   8.0 ms:   0
// frames under  16.7 ms:   0
// frames under 999.0 ms:   0
