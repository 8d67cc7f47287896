// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-stabilize-sorts)' | filecheck %s

// CHECK-LABEL: func.func @floats
func.func @floats(%x: tensor<2x4xf32>, %e: tensor<2x4xi64>) -> (tensor<2x4xf32>, tensor<2x4xi64>) {
  %places = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
      outs(%e : tensor<2x4xi64>) {
  ^bb0(%out: i64):
    %i = linalg.index 1 : index
    %j = arith.index_cast %i : index to i64
    linalg.yield %j : i64
  } -> tensor<2x4xi64>
  // CHECK: ^bb0(%[[A:.*]]: f32, %[[B:.*]]: f32, %[[I:.*]]: i64, %[[J:.*]]: i64):
  // CHECK: %[[GE:.*]] = arith.cmpf oge, %[[A]], %[[B]] : f32
  // CHECK: %[[NAN:.*]] = arith.cmpf uno, %[[A]], %[[A]] : f32
  // CHECK: %[[FIRST:.*]] = arith.ori %[[GE]], %[[NAN]] : i1
  // CHECK: arith.cmpf oge, %[[B]], %[[A]] : f32
  // CHECK: arith.cmpf uno, %[[B]], %[[B]] : f32
  // CHECK: arith.cmpi slt, %[[I]], %[[J]] : i64
  // CHECK: %[[P:.*]] = arith.andi %[[FIRST]], %{{.*}} : i1
  // CHECK: tm_tensor.yield %[[P]] : i1
  // expected-remark@+1 {{equal elements stay in their order}}
  %s:2 = tm_tensor.sort dimension(1) outs(%x, %places : tensor<2x4xf32>, tensor<2x4xi64>) {
  ^bb0(%a: f32, %b: f32, %c: i64, %d: i64):
    %p = arith.cmpf oge, %a, %b : f32
    tm_tensor.yield %p : i1
  } -> tensor<2x4xf32>, tensor<2x4xi64>
  return %s#0, %s#1 : tensor<2x4xf32>, tensor<2x4xi64>
}

// -----

// Not a count of places: there is nothing to decide ties by.

// CHECK-LABEL: func.func @given
// CHECK-NOT: arith.cmpi
func.func @given(%x: tensor<2x4xf32>, %places: tensor<2x4xi64>) -> (tensor<2x4xf32>, tensor<2x4xi64>) {
  %s:2 = tm_tensor.sort dimension(1) outs(%x, %places : tensor<2x4xf32>, tensor<2x4xi64>) {
  ^bb0(%a: f32, %b: f32, %c: i64, %d: i64):
    %p = arith.cmpf oge, %a, %b : f32
    tm_tensor.yield %p : i1
  } -> tensor<2x4xf32>, tensor<2x4xi64>
  return %s#0, %s#1 : tensor<2x4xf32>, tensor<2x4xi64>
}
