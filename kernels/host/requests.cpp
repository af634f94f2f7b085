// Requests of warps: see requests.h.
#include "requests.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>

extern "C" char __executable_start;

namespace emu::races {

namespace {

constexpr size_t kWord = 4, kSector = 32, kBanks = 32;

std::atomic<bool> counting;
std::mutex lock;
std::map<std::pair<std::string, const void *>, Totals> all;

typedef std::vector<std::pair<uintptr_t, size_t>> Lanes;

// Units of `unit` bytes that lanes `from` to `to - 1` touch, each once.
std::vector<uintptr_t> touched(const Lanes &lanes, size_t from, size_t to, size_t unit) {
    std::vector<uintptr_t> found;
    for (size_t i = from; i < to && i < lanes.size(); i++)
        for (uintptr_t u = lanes[i].first / unit; u <= (lanes[i].first + lanes[i].second - 1) / unit; u++)
            found.push_back(u);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

// Lanes with 8 or 16 bytes each go by halves or quarters of a warp; a pass brings one word of each bank.
uint64_t passes(const Lanes &lanes) {
    size_t widest = 0;
    for (const auto &lane : lanes) widest = std::max(widest, lane.second);
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
    thread_local std::unique_ptr<Requests> mine;
    if (!counting) return nullptr;
    if (!mine) mine.reset(new Requests);
    mine->kernel_ = kernel;
    return mine.get();
}

void Requests::count(bool on) { counting = on; }

void Requests::add(unsigned thread, uintptr_t at, size_t bytes, bool shared, const void *site) {
    Place &place = warps_[thread / 32][site];
    size_t index = place.done[thread % 32]++;
    if (index == place.requests.size()) place.requests.push_back({shared, {}});
    place.requests[index].lanes.push_back({at, bytes});
}

void Requests::flush(unsigned warp) {
    for (auto &[site, place] : warps_[warp]) {
        for (const Request &request : place.requests) {
            Totals &sum = totals_[site];
            size_t words = touched(request.lanes, 0, 32, kWord).size(), unit = request.shared ? kBanks * kWord : kSector;
            sum.shared = request.shared;
            sum.requests++;
            for (const auto &lane : request.lanes) sum.bytes += lane.second;
            sum.units += request.shared ? passes(request.lanes) : touched(request.lanes, 0, 32, kSector).size();
            sum.least += (words * kWord + unit - 1) / unit;
        }
        place.requests.clear();
        std::fill(place.done, place.done + 32, 0);
    }
}

void Requests::flush() {
    for (unsigned warp = 0; warp < 32; warp++) flush(warp);
}

void Requests::end() {
    flush();
    std::lock_guard<std::mutex> guard(lock);
    for (const auto &[site, mine] : totals_) {
        Totals &sum = all[{kernel_, site}];
        sum.shared = mine.shared;
        sum.requests += mine.requests, sum.bytes += mine.bytes;
        sum.units += mine.units, sum.least += mine.least;
    }
    totals_.clear();
    for (auto &warp : warps_) warp.clear();
}

std::string Requests::table() {
    std::lock_guard<std::mutex> guard(lock);
    std::string text;
    for (const auto &[where, sum] : all) {
        char line[256];
        size_t site = uintptr_t(where.second) - 1 - uintptr_t(&__executable_start);
        std::snprintf(line, sizeof line, "%s %#zx %s %llu %llu %llu %llu\n", where.first.c_str(), site,
                      sum.shared ? "shared" : "global", (unsigned long long)sum.requests,
                      (unsigned long long)sum.bytes, (unsigned long long)sum.units, (unsigned long long)sum.least);
        text += line;
    }
    return text;
}

} // namespace emu::races
