// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-strip-annotations)' | filecheck %s
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-strip-annotations)' | iree-compile --compile-to=input -o /dev/null -

// Everything that begins with "lowc." goes, on operations of any kind and nesting; nothing else does.

// CHECK-NOT: lowc.
// CHECK: util.global private @codes
// CHECK-NOT: lowc.
util.global private @codes {lowc.derivation = {kind = "rtn", bits = 4 : i64}, noinline} = #flow.parameter.named<"model"::"codes"> : tensor<4x8xf32>

// CHECK: func.func @main{{.*}} attributes {other.kept = "lowc"}
func.func @main(%x: tensor<2x4xf32>, %few: i1) -> tensor<2x8xf32> attributes {other.kept = "lowc", lowc.note = 1 : i64} {
  %w = util.global.load @codes : tensor<4x8xf32>
  %c = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<2x8xf32>
  %z = linalg.fill ins(%c : f32) outs(%e : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: scf.if
  %r = scf.if %few -> tensor<2x8xf32> {
    // CHECK: linalg.matmul ins(
    %y = linalg.matmul {lowc.matmul = "fc", lowc.kind = "weight", lowc.shape = "2x8x4", lowc.form = {form = "exact"},
                        lowc.lowering = "exact (no rule matches)", lowc.bits = 5.0 : f64}
        ins(%x, %w : tensor<2x4xf32>, tensor<4x8xf32>) outs(%z : tensor<2x8xf32>) -> tensor<2x8xf32>
    scf.yield %y : tensor<2x8xf32>
  } else {
    scf.yield %z : tensor<2x8xf32>
  }
  // CHECK-NOT: lowc.
  return %r : tensor<2x8xf32>
}
