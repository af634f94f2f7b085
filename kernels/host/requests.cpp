// Requests of warps: see requests.h.
#include "requests.h"

#include <algorithm>
#include <memory>

extern "C" char __executable_start;

namespace emu::races {

namespace {

constexpr size_t kWord = 4, kSector = 32, kBanks = 32;

thread_local std::unique_ptr<Requests> mine;

// Units of `unit` bytes that lanes `from` to `to - 1` touch, each once.
std::vector<uintptr_t> touched(const Lanes &lanes, size_t from, size_t to, size_t unit) {
    std::vector<uintptr_t> found;
    for (size_t i = from; i < to; i++)
        for (uintptr_t u = lanes[i].at / unit; u * unit < lanes[i].at + lanes[i].bytes; u++) found.push_back(u);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

// Lanes with 8 or 16 bytes each go by halves or quarters of a warp; a pass brings one word of each bank.
uint64_t passes(const Lanes &lanes) {
    size_t widest = 0;
    for (const Piece &lane : lanes) widest = std::max(widest, lane.bytes);
    size_t together = widest <= 4 ? 32 : widest <= 8 ? 16 : 8;
    uint64_t sum = 0;
    for (size_t from = 0; from < lanes.size(); from += together) {
        uint64_t banks[kBanks] = {};
        for (uintptr_t word : touched(lanes, from, from + together, kWord)) banks[word % kBanks]++;
        sum += *std::max_element(banks, banks + kBanks);
    }
    return sum;
}

} // namespace

Requests *Requests::of(const char *kernel) {
    if (mine) mine->kernel_ = kernel;
    // Of a launch that failed.
    for (unsigned warp = 0; mine && warp < 32; warp++) mine->warps_[warp].clear();
    return mine.get();
}

void Requests::count(bool on) { mine.reset(on ? new Requests : nullptr); }

void Requests::add(unsigned thread, uintptr_t at, size_t bytes, bool shared, const void *site) {
    Open &open = warps_[thread / 32][{site, shared}];
    size_t index = open.done[thread % 32]++;
    if (index == open.requests.size()) open.requests.push_back({});
    open.requests[index][thread % 32] = {at, bytes};
}

void Requests::flush(unsigned warp) {
    for (auto &[place, open] : warps_[warp]) {
        if (open.requests.empty()) continue;
        bool shared = place.second;
        size_t unit = shared ? kBanks * kWord : kSector;
        Totals &sum = totals_[{kernel_, place}];
        for (const Lanes &lanes : open.requests) {
            sum.requests++;
            for (const Piece &lane : lanes) sum.bytes += lane.bytes;
            sum.units += shared ? passes(lanes) : touched(lanes, 0, 32, kSector).size();
            sum.least += (touched(lanes, 0, 32, kWord).size() * kWord + unit - 1) / unit;
        }
        open = Open();
    }
}

void Requests::flush() {
    for (unsigned warp = 0; warp < 32; warp++) flush(warp);
}

std::string Requests::table() {
    std::string text;
    if (!mine) return text;
    for (const auto &[where, sum] : mine->totals_) {
        const auto &[kernel, place] = where;
        uintptr_t site = uintptr_t(place.first) - 1 - uintptr_t(&__executable_start);
        text += kernel + " " + std::to_string(site) + (place.second ? " shared" : " global");
        for (uint64_t number : {sum.requests, sum.bytes, sum.units, sum.least}) text += " " + std::to_string(number);
        text += "\n";
    }
    return text;
}

} // namespace emu::races
