// Cookbook: a small game on SDL2, in which whatever moves has coroutines.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/sdl_game.cpp -o game -lSDL2 && ./game
//
// What it teaches: SDL has the window, the keys and the frames; advance() and poll() run the
// library in each frame. What an entity does stands in its coroutines from top to bottom, and they
// end where they stand when it is hit. The world has a clock, which the pause stops; some enemies
// have a slower one, and the menu goes by the loop's.
// Look at: arrows steer, space shoots, P pauses, then Q ends it, as do five enemies that land.
// --demo plays by itself; --virtual also does not wait between the frames, and needs no display.
// With --picture FILE they save what the pause looks like, as a BMP.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <list>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include <SDL2/SDL.h>
using namespace std::chrono_literals;

constexpr int width = 640, height = 480;
constexpr SDL_Color green{80, 220, 120, 255}, white{255, 255, 255, 255}, red{230, 70, 60, 255},
    blue{90, 140, 255, 255}, yellow{255, 200, 60, 255};

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct entity { // a box on the screen, and what goes on in it
    entity(asyncio::event_loop& loop, SDL_FRect b, SDL_Color c) : box(b), color(c), tasks(loop) {}
    SDL_FRect box;
    SDL_Color color;
    float sideways = 0;        // enemies only
    asyncio::task_scope tasks; // the last member: what its coroutines use goes after them
};

class game {
public:
    game(bool demo, bool waits, std::string file) : waits_(waits), file_(std::move(file)) {
        entity& ship = add({width / 2, height - 24, 32, 12}, green);
        ship.tasks.create_task(steer(ship), {.clock = &world_});
        ship.tasks.create_task(shoot(ship), {.clock = &world_});
        slow_.set_scale(0.3);
        tasks_.create_task(menu());
        if (demo) tasks_.create_task(play(ship));
        else tasks_.create_task(attack(std::random_device()()), {.clock = &world_});
    }
    ~game() { SDL_DestroyWindow(window_); } // and what draws in it

    void run() {
        for (Uint64 last = SDL_GetTicks64(); !over_ && landed_ < 5; ++frames_) {
            for (SDL_Event e; SDL_PollEvent(&e);) take(e);
            const Uint64 now = waits_ ? SDL_GetTicks64() : last + 17;
            loop_.advance(std::chrono::milliseconds(std::min<Uint64>(now - last, 50)));
            loop_.poll();
            draw();
            if (waits_) SDL_Delay(10);
            last = now;
        }
        std::printf("%d enemies shot, %d landed, %d frames\n", shot_, landed_, frames_);
    }

private:
    // -- what the entities do ------------------------------------------------------------
    static asyncio::coro<float> frame() { // gives the seconds since the last one
        const asyncio::duration passed = co_await asyncio::next_frame();
        co_return static_cast<float>(passed.total_seconds());
    }
    asyncio::coro<> steer(entity& ship) {
        for (;;) {
            const float way = 260 * co_await frame() * static_cast<float>(right_ - left_);
            ship.box.x = std::clamp(ship.box.x + way, 0.f, width - ship.box.w);
        }
    }
    asyncio::coro<> shoot(entity& ship) {
        for (;;) {
            co_await trigger_.wait();
            trigger_.clear();
            entity& shot = add({ship.box.x + 14, ship.box.y - 10, 4, 10}, white);
            shot.tasks.create_task(fly(shot));
            co_await asyncio::sleep(0.25s); // it loads
        }
    }
    asyncio::coro<> fly(entity& shot) {
        for (;;) {
            shot.box.y -= 300 * co_await frame();
            const auto hit = std::find_if(entities_.begin(), entities_.end(), [&](auto& e) {
                return e.sideways != 0 && SDL_HasIntersectionF(&e.box, &shot.box);
            });
            const bool gone = hit != entities_.end() || shot.box.y < 0;
            if (hit != entities_.end()) {
                entity& fire = add(hit->box, yellow);
                fire.tasks.create_task(burn(fire));
                const std::size_t before = loop_.metrics().tasks;
                entities_.erase(hit); // wherever its coroutines are
                ended_ += before - loop_.metrics().tasks;
                ++shot_;
            }
            if (gone) remove(shot); // this coroutine, too, at its next await
        }
    }
    asyncio::coro<> burn(entity& fire) {
        for (int i = 0; i < 8; ++i) {
            co_await asyncio::sleep(40ms);
            fire.box = {fire.box.x - 1, fire.box.y - 1, fire.box.w + 2, fire.box.h + 2};
        }
        remove(fire);
    }
    asyncio::coro<> fall(entity& enemy) {
        for (;;) {
            const float passed = co_await frame();
            enemy.box.x += enemy.sideways * passed;
            enemy.box.y += 60 * passed;
            if (enemy.box.y < height) continue;
            ++landed_;
            remove(enemy);
        }
    }
    asyncio::coro<> sway(entity& enemy) {
        for (;; enemy.sideways = -enemy.sideways) co_await asyncio::sleep(1s);
    }
    asyncio::coro<> attack(unsigned seed) {
        std::minstd_rand random(seed);
        for (int i = 1;; ++i) {
            co_await asyncio::sleep(0.9s);
            send(static_cast<float>(random() % (width - 60) + 20), i % 4 == 0 ? slow_ : world_);
        }
    }
    entity& send(float x, asyncio::time_stream& clock) {
        entity& enemy = add({x, -20, 24, 20}, &clock == &slow_ ? blue : red);
        enemy.sideways = 25;
        enemy.tasks.create_task(fall(enemy), {.clock = &clock});
        enemy.tasks.create_task(sway(enemy), {.clock = &clock});
        return enemy;
    }
    entity& add(SDL_FRect box, SDL_Color c) { return entities_.emplace_back(loop_, box, c); }
    void remove(entity& e) {
        entities_.remove_if([&](entity& other) { return &other == &e; });
    }

    // -- keys, pause, picture ------------------------------------------------------------
    void take(const SDL_Event& e) {
        const bool down = e.type == SDL_KEYDOWN;
        if (e.type == SDL_QUIT) over_ = true;
        if ((!down && e.type != SDL_KEYUP) || e.key.repeat != 0) return;
        const SDL_Keycode key = e.key.keysym.sym;
        if (key == SDLK_LEFT) left_ = down;
        else if (key == SDLK_RIGHT) right_ = down;
        else if (key == SDLK_SPACE && down && !paused_) trigger_.set();
        else if (down) keys_.put_nowait(key);
    }
    asyncio::coro<> menu() {
        for (;;) {
            const SDL_Keycode key = co_await keys_.get();
            if (key != SDLK_p) continue;
            for (asyncio::time_stream* clock : {&world_, &slow_}) clock->pause();
            for (paused_ = true; paused_; ++blinks_) {
                auto limited = asyncio::wait_for(keys_.get(), 0.3s);
                const auto next = co_await asyncio::as_outcome(std::move(limited));
                if (!next) continue; // nobody has pressed one
                paused_ = *next != SDLK_p;
                over_ = *next == SDLK_q;
            }
            for (asyncio::time_stream* clock : {&world_, &slow_}) clock->resume();
        }
    }
    void fill(SDL_FRect box, SDL_Color c) {
        SDL_SetRenderDrawColor(canvas_, c.r, c.g, c.b, c.a);
        SDL_RenderFillRectF(canvas_, &box);
    }
    void draw() {
        SDL_SetRenderDrawColor(canvas_, 12, 14, 30, 255);
        SDL_RenderClear(canvas_);
        for (const entity& e : entities_) fill(e.box, e.color);
        float x = 16;
        for (int i = 0; i < shot_; ++i, x += 8) fill({x, 16, 4, 12}, white);
        x = width - 28;
        for (int i = landed_; i < 5; ++i, x -= 20) fill({x, 16, 12, 12}, green);
        for (x = 260; x < 400; x += 84)
            if (paused_) fill({x, 180, 36, 120}, blinks_ % 2 == 0 ? yellow : white);
        if (std::exchange(wanted_, false)) keep_picture();
        SDL_RenderPresent(canvas_);
    }
    void keep_picture() {
        constexpr Uint32 format = SDL_PIXELFORMAT_ARGB8888;
        SDL_Surface* const s = SDL_CreateRGBSurfaceWithFormat(0, width, height, 32, format);
        SDL_RenderReadPixels(canvas_, nullptr, format, s->pixels, s->pitch);
        const auto* const pixels = static_cast<const Uint32*>(s->pixels);
        const auto bars = std::count(pixels, pixels + width * height, 0xffffc83c);
        claim(bars >= 2 * 36 * 120, "the picture has the sign of the pause");
        if (!file_.empty()) SDL_SaveBMP(s, file_.c_str());
        SDL_FreeSurface(s);
    }

    // -- a player who looks closely ------------------------------------------------------
    static void press(SDL_Keycode key, bool down) {
        SDL_Event e{};
        e.type = down ? SDL_KEYDOWN : SDL_KEYUP;
        e.key.keysym.sym = key;
        SDL_PushEvent(&e);
    }
    asyncio::coro<> hunt(const entity& ship, asyncio::duration time) {
        for (const asyncio::time_point end = loop_.time() + time; loop_.time() < end;) {
            const entity* lowest = nullptr;
            for (const entity& e : entities_)
                if (e.sideways != 0 && (!lowest || e.box.y > lowest->box.y)) lowest = &e;
            const float off = lowest ? lowest->box.x - ship.box.x - 4 : 0;
            press(SDLK_LEFT, off < -6);
            press(SDLK_RIGHT, off > 6);
            press(SDLK_SPACE, lowest && std::abs(off) < 12);
            co_await asyncio::sleep(50ms);
        }
    }
    std::vector<float> places() const {
        std::vector<float> all;
        for (const entity& e : entities_) all.insert(all.end(), {e.box.x, e.box.y});
        return all;
    }
    asyncio::coro<> play(const entity& ship) {
        const entity& fast = send(100, world_);
        const entity& slow = send(500, slow_);
        co_await asyncio::sleep(2s);
        const float part = (slow.box.y + 20) / (fast.box.y + 20);
        claim(std::abs(part - 0.3f) < 0.01f, "a slow enemy goes 0.3 of the way of the others");
        tasks_.create_task(attack(1), {.clock = &world_});
        co_await hunt(ship, 8s);

        press(SDLK_p, true);
        co_await asyncio::sleep(100ms);
        const std::vector<float> still = places();
        const int frames = frames_, blinks = blinks_;
        wanted_ = true; // a picture
        co_await asyncio::sleep(1s);
        claim(blinks_ - blinks >= 3 && places() == still,
              "in the pause " + std::to_string(still.size() / 2) + " entities stood still for " +
                  std::to_string(frames_ - frames) + " frames, and the menu went on");
        press(SDLK_p, true);
        co_await hunt(ship, 8s);
        claim(places() != still, "then they moved again");
        claim(shot_ > 3 && ended_ == 2 * static_cast<std::size_t>(shot_),
              std::to_string(shot_) + " enemies were shot, and their " + std::to_string(ended_) +
                  " tasks ended there and then, in an await");
        std::size_t tasks = tasks_.size();
        for (const entity& e : entities_) tasks += e.tasks.size();
        claim(loop_.metrics().tasks == tasks, "all other tasks are of what is there to see");
        over_ = true;
    }

    asyncio::event_loop loop_{{.clock = asyncio::clock_kind::manual}};
    asyncio::time_stream world_{loop_}, slow_{loop_};
    asyncio::event trigger_;
    asyncio::queue<SDL_Keycode> keys_;
    SDL_Window* window_ = SDL_CreateWindow("asyncio", 100, 100, width, height, 0);
    SDL_Renderer* canvas_ = SDL_CreateRenderer(window_, -1, SDL_RENDERER_SOFTWARE);
    bool waits_, over_ = false, paused_ = false, left_ = false, right_ = false, wanted_ = false;
    int frames_ = 0, shot_ = 0, landed_ = 0, blinks_ = 0;
    std::size_t ended_ = 0; // tasks of enemies, at a shot
    std::string file_;
    std::list<entity> entities_;
    asyncio::task_scope tasks_{loop_};
};

int main(int argc, char** argv) {
    bool demo = false, waits = true;
    std::string file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--demo" || word == "--virtual") {
            demo = true;
            waits = word == "--demo";
        } else if (word == "--picture" && i + 1 < argc) {
            file = argv[++i];
        } else {
            std::fputs("Plays a game on SDL2.\n"
                       "usage: game [--demo | --virtual] [--picture FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    SDL_SetHint(SDL_HINT_FRAMEBUFFER_ACCELERATION, "0"); // a few rectangles: no need of OpenGL
    bool ready = SDL_Init(SDL_INIT_VIDEO) == 0;
    if (!ready && !waits) { // nobody need see it
        SDL_SetHint(SDL_HINT_VIDEODRIVER, "dummy");
        ready = SDL_Init(SDL_INIT_VIDEO) == 0;
    }
    if (!ready) {
        std::fprintf(stderr, "SDL_Init: %s\n", SDL_GetError());
        return 1;
    }
    game(demo, waits, file).run();
    SDL_Quit();
    return broken == 0 ? 0 : 1;
}
// Output:
// holds:  a slow enemy goes 0.3 of the way of the others
// holds:  the picture has the sign of the pause
// holds:  in the pause 10 entities stood still for 58 frames, and the menu went on
// holds:  then they moved again
// holds:  12 enemies were shot, and their 24 tasks ended there and then, in an await
// holds:  all other tasks are of what is there to see
// 12 enemies shot, 0 landed, 1124 frames
