// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"exact\"}]"},lowc-select-tiles{unit=avx512 measured="{\"ec0e34a14bc82ec5\":{\"t8x3v16k256g1c32s\":0.0001,\"t6x4v16k256g2c36\":5e-05,\"t12x2v16k256g2c36\":0.0002}}"},lowc-outline-kernels{unit=avx512})' 2>&1 | filecheck %s
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"exact\"}]"},lowc-select-tiles{unit=avx512 measured="{\"ec0e34a14bc82ec5\":{\"t8x3v16k256g1c32s\":0.0001,\"t6x4v16k256g2c36\":0.0003}}"},lowc-outline-kernels{unit=avx512})' 2>&1 | filecheck %s --check-prefix=SLOW
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"exact\"}]"},lowc-select-tiles{unit=avx512 cost-model=roofline})' 2>&1 | filecheck %s --check-prefix=MODEL
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"exact\"}]"},lowc-select-tiles{unit=avx512 kernels=false cost-model=roofline})' 2>&1 | filecheck %s --check-prefix=LINALG
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"exact\"}]"},lowc-select-tiles,lowc-outline-kernels{unit=avx512})' 2>&1 | filecheck %s --check-prefix=NONE

// The fastest of what was measured is taken, and the kernel is generated for it.
// CHECK: remark: fc: tile t6x4v16k256g2c36 (measured: the fastest of 3, 100 % faster than the default)
// CHECK: remark: fc: kernel of vectors of 16, 6 x 64 sums in registers
// CHECK: hal.executable.source private @f32_1x64x192x256_t6x4v16k256g2c36
// CHECK: flow.dispatch @f32_1x64x192x256_t6x4v16k256g2c36::
// CHECK-SAME: lowc.predicted = 5.000000e-05 : f64
// CHECK-SAME: lowc.tile = "t6x4v16k256g2c36", lowc.why = "measured: the fastest of 3, 100 % faster than the default"

// What was measured to be slower than the default never is.
// SLOW: remark: fc: tile [[TILE:t[0-9a-z]+]] (measured: none of 2 tiles is faster than the default)
// SLOW: flow.dispatch
// SLOW-SAME: lowc.predicted = 1.000000e-04 : f64
// SLOW-SAME: lowc.tile = "[[TILE]]"

// An estimate gives the default tile the benefit of the doubt.
// MODEL: remark: fc: tile t{{[0-9a-z]+}} (roofline: the best of {{[0-9]+}} gains {{[0-9]+}} %, less than it is sure of); the best: t{{[0-9a-z]+}}, t
// MODEL: linalg.matmul {{.*}}lowc.predicted = {{[0-9.eE-]+}} : f64
// MODEL-NOT: lowc.tile
// MODEL: return

// Of the tiles of IREE's code generation it knows nothing.
// LINALG: remark: fc: tile stock (roofline knows too little of this product: default tile); the best: stock
// LINALG-NOT: lowc.tile

// Without a model or a measurement nothing is written.
// NONE-NOT: [lowc-select-tiles]
// NONE: flow.dispatch
// NONE-NOT: lowc.why

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<256x192xf32>
func.func @linear(%x: tensor<64x256xf32>) -> tensor<64x192xf32> {
  %w = util.global.load @fc.weight : tensor<256x192xf32>
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<64x192xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<64x192xf32>) -> tensor<64x192xf32>
  %y = linalg.matmul ins(%x, %w : tensor<64x256xf32>, tensor<256x192xf32>) outs(%f : tensor<64x192xf32>) -> tensor<64x192xf32> loc("fc")
  return %y : tensor<64x192xf32>
}
