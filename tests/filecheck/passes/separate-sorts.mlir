// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-separate-sorts)' | filecheck %s

// Places of a size known at run time only: the sort gets ones of its own.

// CHECK-LABEL: func.func @dynamic
func.func @dynamic(%x: tensor<?x4xf32>, %e: tensor<?x4xi64>) -> (tensor<?x4xf32>, tensor<?x4xi64>) {
  %places = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
      outs(%e : tensor<?x4xi64>) {
  ^bb0(%out: i64):
    %i = linalg.index 1 : index
    %j = arith.index_cast %i : index to i64
    linalg.yield %j : i64
  } -> tensor<?x4xi64>
  // CHECK: %[[BITS:.*]] = util.optimization_barrier %{{.*}} : i32
  // CHECK: %[[COPY:.*]] = linalg.generic {{.*}} ins(%{{.*}} : tensor<?x4xf32>)
  // CHECK: arith.addi %{{.*}}, %[[BITS]] : i32
  // CHECK: %[[ZERO:.*]] = util.optimization_barrier %{{.*}} : i64
  // CHECK: %[[OWN:.*]] = linalg.generic
  // CHECK: arith.addi %{{.*}}, %[[ZERO]] : i64
  // CHECK: tm_tensor.sort dimension(1) outs(%[[COPY]], %[[OWN]] : tensor<?x4xf32>, tensor<?x4xi64>)
  // expected-remark@+1 {{has values and places of its own}}
  %s:2 = tm_tensor.sort dimension(1) outs(%x, %places : tensor<?x4xf32>, tensor<?x4xi64>) {
  ^bb0(%a: f32, %b: f32, %c: i64, %d: i64):
    %p = arith.cmpf oge, %a, %b : f32
    tm_tensor.yield %p : i1
  } -> tensor<?x4xf32>, tensor<?x4xi64>
  return %s#0, %s#1 : tensor<?x4xf32>, tensor<?x4xi64>
}

// -----

// What is sorted along is no count: it is left alone.

// CHECK-LABEL: func.func @given
// CHECK-NOT: util.optimization_barrier
func.func @given(%x: tensor<?x4xf32>, %places: tensor<?x4xi64>) -> (tensor<?x4xf32>, tensor<?x4xi64>) {
  %s:2 = tm_tensor.sort dimension(1) outs(%x, %places : tensor<?x4xf32>, tensor<?x4xi64>) {
  ^bb0(%a: f32, %b: f32, %c: i64, %d: i64):
    %p = arith.cmpf oge, %a, %b : f32
    tm_tensor.yield %p : i1
  } -> tensor<?x4xf32>, tensor<?x4xi64>
  return %s#0, %s#1 : tensor<?x4xf32>, tensor<?x4xi64>
}
