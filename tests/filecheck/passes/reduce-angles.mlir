// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-reduce-angles)' | filecheck %s

// CHECK-LABEL: func.func @sine
// CHECK-SAME: (%[[X:.*]]: f32)
func.func @sine(%x: f32) -> f32 {
  // CHECK: %[[Q:.*]] = arith.mulf %[[X]], %cst{{.*}} : f32
  // CHECK: %[[T:.*]] = math.roundeven %[[Q]] : f32
  // CHECK: %[[P0:.*]] = arith.mulf %[[T]], %{{.*}} : f32
  // CHECK: %[[A:.*]] = arith.subf %[[X]], %[[P0]] : f32
  // CHECK: %[[B:.*]] = arith.subf %[[A]], %{{.*}} : f32
  // CHECK: %[[C:.*]] = arith.subf %[[B]], %{{.*}} : f32
  // CHECK: %[[R:.*]] = arith.subf %[[C]], %{{.*}} : f32
  // CHECK: math.sin %[[R]] : f32
  // expected-remark@+1 {{whole turns are taken off its angle first}}
  %y = math.sin %x : f32
  return %y : f32
}

// -----

// A cosine in other floats is IREE's.

// CHECK-LABEL: func.func @half
// CHECK-NOT: roundeven
func.func @half(%x: f16) -> f16 {
  %y = math.cos %x : f16
  return %y : f16
}
