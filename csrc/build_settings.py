"""Print what CMake must know of this Python and its torch, one CMake command a line (run by CMakeLists.txt)."""

import os
import sysconfig

import torch

ROOT = os.path.dirname(torch.__file__)
SETTINGS = {
    "PYTHON_INCLUDE": sysconfig.get_path("include"),
    "PYTHON_TAG": sysconfig.get_config_var("SOABI"),
    "MODULE_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
    "TORCH_INCLUDE": ";".join(
        [os.path.join(ROOT, "include"), os.path.join(ROOT, "include", "torch", "csrc", "api", "include")]
    ),
    "TORCH_LIBRARIES_DIR": os.path.join(ROOT, "lib"),
    "TORCH_VERSION": torch.__version__,
    "TORCH_CUDA": torch.version.cuda or "",
    "TORCH_CXX11_ABI": int(torch.compiled_with_cxx11_abi()),
}

for name, value in SETTINGS.items():
    print(f"set({name} [[{value}]])")
