// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-separate-scatters)' | filecheck %s

// Zeros of a size known at run time only: the scatter writes into a copy of its own.

// CHECK-LABEL: func.func @zeros
func.func @zeros(%x: tensor<?xf16>, %i: tensor<?x1xi64>, %n: index) -> tensor<?xf16> {
  %cst = arith.constant 0.0 : f16
  %e = tensor.empty(%n) : tensor<?xf16>
  %z = linalg.fill ins(%cst : f16) outs(%e : tensor<?xf16>) -> tensor<?xf16>
  // CHECK: %[[ZERO:.*]] = util.optimization_barrier %{{.*}} : i32
  // CHECK: %[[OWN:.*]] = linalg.generic
  // CHECK: %[[BITS:.*]] = arith.trunci %[[ZERO]] : i32 to i16
  // CHECK: %[[ELSE:.*]] = arith.bitcast %[[BITS]] : i16 to f16
  // CHECK: arith.select %{{.*}}, %{{.*}}, %[[ELSE]] : f16
  // CHECK: tm_tensor.scatter {{.*}} outs(%[[OWN]] : tensor<?xf16>)
  // expected-remark@+1 {{writes into its own tensor}}
  %s = tm_tensor.scatter {dimension_map = array<i64: 0>} unique_indices(false) ins(%x, %i : tensor<?xf16>, tensor<?x1xi64>) outs(%z : tensor<?xf16>) {
  ^bb0(%a: f16, %b: f16):
    tm_tensor.yield %a : f16
  } -> tensor<?xf16>
  return %s : tensor<?xf16>
}

// -----

// A caller's tensor, one that depends on it, and zeros of a known size are left alone.

// CHECK-LABEL: func.func @others
// CHECK-NOT: util.optimization_barrier
func.func @others(%x: tensor<?xf32>, %i: tensor<?x1xi64>, %y: tensor<?xf32>) -> (tensor<?xf32>, tensor<?xf32>, tensor<8xf32>) {
  %s = tm_tensor.scatter {dimension_map = array<i64: 0>} unique_indices(false) ins(%x, %i : tensor<?xf32>, tensor<?x1xi64>) outs(%y : tensor<?xf32>) {
  ^bb0(%a: f32, %b: f32):
    tm_tensor.yield %a : f32
  } -> tensor<?xf32>
  %t = tm_tensor.scatter {dimension_map = array<i64: 0>} unique_indices(false) ins(%x, %i : tensor<?xf32>, tensor<?x1xi64>) outs(%s : tensor<?xf32>) {
  ^bb0(%a: f32, %b: f32):
    tm_tensor.yield %a : f32
  } -> tensor<?xf32>
  %cst = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8xf32>
  %z = linalg.fill ins(%cst : f32) outs(%e : tensor<8xf32>) -> tensor<8xf32>
  %u = tm_tensor.scatter {dimension_map = array<i64: 0>} unique_indices(false) ins(%x, %i : tensor<?xf32>, tensor<?x1xi64>) outs(%z : tensor<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    tm_tensor.yield %a : f32
  } -> tensor<8xf32>
  return %s, %t, %u : tensor<?xf32>, tensor<?xf32>, tensor<8xf32>
}
