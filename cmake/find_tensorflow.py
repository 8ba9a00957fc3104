"""Prints, for CMake, where the TensorFlow of this Python is: version;include;library;C++11 ABI.

pip hides the environment that it installs into from builds; its TensorFlow will do, where the build
has none of its own (build_backend.py).
"""

import os
import sys
import sysconfig

sys.path += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]

import tensorflow as tf

flags = tf.sysconfig.get_compile_flags()
abi = next(flag.split("=")[1] for flag in flags if flag.startswith("-D_GLIBCXX_USE_CXX11_ABI="))
library = os.path.join(tf.sysconfig.get_lib(), "libtensorflow_framework.so.2")
print(";".join([tf.version.VERSION, tf.sysconfig.get_include(), library, abi]))
