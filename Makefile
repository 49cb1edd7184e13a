# make demo   a patient's ECG beside generated twins, in out/        make test   every test
# Both make .venv, install into it, and run. Needed: Python 3.11 or newer with venv, a C++17 compiler, make.
#
# Variables: COUNT (twins of the demo), ARGS (more options of demo or pytest), OUT, PYTHON (which Python), VENV (where),
# TORCH (another torch, such as torch==2.11.0; then its dependency pin is not enforced).
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
COUNT ?= 8
OUT ?= out
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
BUILD_TOOLS := 'setuptools>=77' 'cmake>=3.25' ninja numpy
SOURCES := setup.py CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test lint cuda-check triton-check sanitize install clean

demo: install
	$(BIN)/ecgtwin-fast demo --count $(COUNT) --out $(OUT) $(ARGS)

test: install
	$(BIN)/python -m pytest python_tests $(ARGS)

lint: install
	$(BIN)/ruff check .

# Compiles every CUDA source with nvcc alone, and fails where a kernel spills; needs neither a GPU nor torch.
cuda-check:
	$(PYTHON) csrc/cuda_check.py

# Compiles every Triton kernel; needs no GPU, but triton beside torch.
triton-check: install
	$(BIN)/python csrc/triton_check.py

# Tests of the CPU engines under AddressSanitizer, on a copy of the package with a module of its own.
SANITIZED := build/sanitized
WATCHED := $(addprefix python_tests/,test_cpu_*.py test_editing_engine.py test_ops_multihead_attention.py test_ops_tanh_gelu.py)
sanitize: install
	mkdir -p $(SANITIZED)
	cp -r ecgtwin_fast $(SANITIZED)/
	rm -f $(SANITIZED)/ecgtwin_fast/_C*.so
	$(BIN)/cmake -G Ninja -S . -B $(SANITIZED)/cmake -DECGTWIN_SANITIZE=ON -DECGTWIN_PYTHON=$(abspath $(BIN)/python) \
	  -DECGTWIN_OUTPUT=$(abspath $(SANITIZED)/ecgtwin_fast) -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja)
	$(BIN)/cmake --build $(SANITIZED)/cmake
	PYTHONPATH=$(SANITIZED) LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc $(BIN)/pytest -q $(WATCHED) $(ARGS)

install: $(VENV)/built

# Only what changed is compiled again.
$(VENV)/built: $(VENV)/installed $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/made
	@echo "installing into $(VENV); the first time takes some minutes"
	$(PIP) '$(TORCH)' $(BUILD_TOOLS)
ifeq ($(TORCH),torch==2.13.0)
	$(PIP) --no-build-isolation --editable '.[dev]'
else
	$(BIN)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print(*(d for d in p['dependencies'] + p['optional-dependencies']['dev'] if not d.startswith('torch==')), sep='\n')" \
	  > $(VENV)/requirements.txt
	$(PIP) '$(TORCH)' --requirement $(VENV)/requirements.txt
	$(PIP) --no-build-isolation --no-deps --editable .
endif
	@touch $@

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; install Python 3.11 or newer, or: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) lacks venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "error: no C++ compiler; on Debian and Ubuntu: apt install g++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf .venv build out *.egg-info ecgtwin_fast/_C*.so ecgtwin_fast/_build.json
