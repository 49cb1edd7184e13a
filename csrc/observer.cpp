#include "observer.h"

#include <chrono>
#include <optional>
#include <utility>

namespace ecgtwin {
namespace {

using Clock = std::chrono::steady_clock;

struct Observer {
  PyObject* callable = nullptr;
  Clock::time_point next;
  std::optional<pybind11::error_already_set> failure;
};

Observer& observer() {
  static thread_local Observer own;
  return own;
}

}  // namespace

void set_observer(pybind11::object callable) {
  Observer& own = observer();
  Py_XDECREF(own.callable);
  own.callable = callable.is_none() ? nullptr : callable.release().ptr();
  own.next = Clock::now();
  if (const auto failure = std::exchange(own.failure, std::nullopt)) throw *failure;
}

bool tick_observer() {
  Observer& own = observer();
  if (!own.callable) return true;
  if (own.failure) return false;
  if (Clock::now() < own.next) return true;
  const pybind11::gil_scoped_acquire lock;
  try {
    pybind11::reinterpret_borrow<pybind11::object>(own.callable)();
  } catch (const pybind11::error_already_set& error) {
    own.failure = error;
  }
  own.next = Clock::now() + std::chrono::milliseconds(10);
  return !own.failure;
}

}  // namespace ecgtwin
