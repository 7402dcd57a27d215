"""The Triton kernels run wherever there is Triton."""

from triton_interpreter import choose_interpreter

choose_interpreter()
