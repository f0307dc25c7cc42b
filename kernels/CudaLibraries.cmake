# CUDA: nvcc, and the libraries beside it. cuDNN and NCCL have no CMake packages, so they are found by header and library
# in the toolkit's folders and the system's, or where CUDNN_ROOT and NCCL_ROOT say. Included by the root's CMakeLists.txt.
set(without_cuda "or build without CUDA: -DSKIPPIPE_CUDA=OFF")

if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "SKIPPIPE_CUDA is ON, but no nvcc was found: install the CUDA Toolkit, 12.4 or newer, and put its "
    "bin folder into PATH, ${without_cuda}")
endif()
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE nvcc_version ERROR_QUIET)
string(REGEX REPLACE ".*release ([0-9.]+).*" "\\1" nvcc_version "${nvcc_version}")
if(nvcc_version VERSION_LESS 12.4)
  message(FATAL_ERROR "CUDA Toolkit: found ${nvcc_version} (${CMAKE_CUDA_COMPILER}), expected 12.4 or newer: install "
    "it, name its nvcc with -DCMAKE_CUDA_COMPILER=..., ${without_cuda}")
endif()
set(CMAKE_CUDA_ARCHITECTURES ${SKIPPIPE_CUDA_ARCHITECTURES})
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # which CMake 3.25 does not know of nvcc
endif()
find_package(CUDAToolkit REQUIRED)
if(NOT TARGET CUDA::cublasLt)
  message(FATAL_ERROR "cuBLASLt was not found in ${CUDAToolkit_LIBRARY_DIR}: install the CUDA Toolkit's cuBLAS with its "
    "headers (libcublas-dev-${CUDAToolkit_VERSION_MAJOR}-${CUDAToolkit_VERSION_MINOR}), ${without_cuda}")
endif()

# Sets NAME_FOUND, NAME_VERSION and, where found, NAME_LIBRARY and NAME_INCLUDE_DIR, and makes the target NAME::LIBRARY.
function(find_cuda_library name library version_header version_prefix)
  set(places HINTS ${${name}_ROOT} ENV ${name}_ROOT ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_LIBRARY_DIR})
  find_path(${name}_INCLUDE_DIR ${version_header} ${places} PATH_SUFFIXES include)
  find_library(${name}_LIBRARY ${library} ${places} PATH_SUFFIXES lib64 lib)
  if(NOT ${name}_INCLUDE_DIR OR NOT ${name}_LIBRARY)
    set(${name}_FOUND FALSE PARENT_SCOPE)
    set(${name}_VERSION none PARENT_SCOPE)
    return()
  endif()
  file(STRINGS ${${name}_INCLUDE_DIR}/${version_header} lines REGEX "define ${version_prefix}_(MAJOR|MINOR|PATCH)[A-Z]* ")
  string(REGEX MATCHALL "[0-9]+" numbers "${lines}")
  list(JOIN numbers . version)
  set(${name}_FOUND TRUE PARENT_SCOPE)
  set(${name}_VERSION ${version} PARENT_SCOPE)
  add_library(${name}::${library} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(${name}::${library} PROPERTIES IMPORTED_LOCATION ${${name}_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${${name}_INCLUDE_DIR})
endfunction()

find_cuda_library(CUDNN cudnn cudnn_version.h CUDNN)
if(CUDNN_FOUND AND CUDNN_VERSION VERSION_LESS 9)
  message(FATAL_ERROR "cuDNN: found ${CUDNN_VERSION} (${CUDNN_LIBRARY}), expected 9 or newer: install it, or say where "
    "another is with -DCUDNN_ROOT=..., ${without_cuda}")
elseif(NOT CUDNN_FOUND AND SKIPPIPE_PARTS STREQUAL "all")
  message(FATAL_ERROR "cuDNN 9 (cudnn_version.h and libcudnn.so) was not found: install it (cudnn9-cuda-"
    "${CUDAToolkit_VERSION_MAJOR} of NVIDIA's packages), or say where it is with -DCUDNN_ROOT=..., ${without_cuda}")
elseif(NOT CUDNN_FOUND)
  message(STATUS "cuDNN 9 was not found: its attention is left out, ours is there")
endif()

find_cuda_library(NCCL nccl nccl.h NCCL)
if(NOT NCCL_FOUND AND SKIPPIPE_PARTS STREQUAL "all")
  message(WARNING "NCCL (nccl.h and libnccl.so) was not found: gradients will be summed over the network between nodes "
    "with GPUs, too; install it, or say where it is with -DNCCL_ROOT=...")
endif()

message(STATUS "CUDA ${CUDAToolkit_VERSION} for ${SKIPPIPE_CUDA_ARCHITECTURES}; cuDNN ${CUDNN_VERSION}; NCCL ${NCCL_VERSION}")
