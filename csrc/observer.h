// Whoever watches over a long call from Python: told now and then, on the thread that made the call.
#pragma once

#include <pybind11/pybind11.h>

namespace ecgtwin {

// From now on, for this thread: a callable without arguments, or None for nobody. Throws what the observer before raised.
void set_observer(pybind11::object callable);

// Calls this thread's observer, if it has one, unless it did within the last ten milliseconds. False once it has raised
// something, as Python itself does in it after Ctrl-C: the long call should end. Needs no lock of Python's.
bool tick_observer();

}  // namespace ecgtwin
