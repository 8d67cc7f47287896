// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-quantize-caches{keys=i8 values=i4},canonicalize,cse)' | filecheck %s

// Rows of keys are rounded where they are written; what is read of them is made f32.  A reset
// puts zeros into all that they are stored in.

// CHECK-NOT: @keys =
// CHECK-DAG: util.global private mutable @keys.i8.codes {lowc.zeros} = #flow.parameter.named<"model"::"keys.i8.codes"> : tensor<40x2x16xi8>
// CHECK-DAG: util.global private mutable @keys.i8.scales {lowc.zeros} = {{.*}} : tensor<40x2xf32>
// CHECK-LABEL: func.func @main
// CHECK-SAME: (%[[NEW:.*]]: tensor<1x2x16xf32>, %{{.*}}: tensor<2x3x16xf32>, %[[AT:.*]]: index, %[[N:.*]]: index)
// CHECK-DAG: %[[C:.*]] = util.global.load @keys.i8.codes
// CHECK-DAG: %[[S:.*]] = util.global.load @keys.i8.scales
// CHECK: linalg.generic {{.*}}ins(%[[NEW]] :
// CHECK: arith.maxui
// CHECK: math.roundeven
// CHECK-DAG: %[[C2:.*]] = tensor.insert_slice %{{.*}} into %[[C]][%[[AT]], 0, 0] [1, 2, 16] [1, 1, 1]
// CHECK-DAG: %[[S2:.*]] = tensor.insert_slice %{{.*}} into %[[S]][%[[AT]], 0] [1, 2] [1, 1]
// CHECK-DAG: util.global.store %[[C2]], @keys.i8.codes
// CHECK-DAG: util.global.store %[[S2]], @keys.i8.scales
// CHECK-DAG: %[[C3:.*]] = tensor.extract_slice %[[C2]][0, 0, 0] [%[[N]], 2, 16] [1, 1, 1]
// CHECK-DAG: %[[S3:.*]] = tensor.extract_slice %[[S2]][0, 0] [%[[N]], 2] [1, 1]
// CHECK: %[[K:.*]] = linalg.generic {{.*}}ins(%[[C3]], %[[S3]] : {{.*}} attrs = {lowc.cache = "i8"}
// CHECK: linalg.transpose ins(%[[K]]
// CHECK-LABEL: func.func @reset
// CHECK-COUNT-2: util.global.store
// CHECK-NOT: util.global.store
util.global private mutable @keys {lowc.zeros} = #flow.parameter.named<"model"::"keys"> : tensor<40x2x16xf32>
func.func @main(%new: tensor<1x2x16xf32>, %q: tensor<2x3x16xf32>, %at: index, %n: index) -> tensor<2x3x?xf32> {
  %c = util.global.load @keys : tensor<40x2x16xf32>
  %zero = arith.constant 0.0 : f32
  %d = tensor.insert_slice %new into %c[%at, 0, 0] [1, 2, 16] [1, 1, 1] : tensor<1x2x16xf32> into tensor<40x2x16xf32>
  util.global.store %d, @keys : tensor<40x2x16xf32>
  %part = tensor.extract_slice %d[0, 0, 0] [%n, 2, 16] [1, 1, 1] : tensor<40x2x16xf32> to tensor<?x2x16xf32>
  %e = tensor.empty(%n) : tensor<2x16x?xf32>
  %k = linalg.transpose ins(%part : tensor<?x2x16xf32>) outs(%e : tensor<2x16x?xf32>) permutation = [1, 2, 0]
  %es = tensor.empty(%n) : tensor<2x3x?xf32>
  %z = linalg.fill ins(%zero : f32) outs(%es : tensor<2x3x?xf32>) -> tensor<2x3x?xf32>
  %s = linalg.batch_matmul {lowc.matmul = "a:qk", lowc.kind = "product"} ins(%q, %k : tensor<2x3x16xf32>, tensor<2x16x?xf32>) outs(%z : tensor<2x3x?xf32>) -> tensor<2x3x?xf32>
  return %s : tensor<2x3x?xf32>
}
func.func @reset() {
  %c = util.global.load @keys : tensor<40x2x16xf32>
  %never = arith.constant false
  %kept = util.optimization_barrier %never : i1
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<40x2x16xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(a, b, c) -> (a, b, c)>, affine_map<(a, b, c) -> (a, b, c)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%c : tensor<40x2x16xf32>) outs(%e : tensor<40x2x16xf32>) attrs = {lowc.zeros} {
  ^bb0(%in: f32, %out: f32):
    %a = arith.select %kept, %in, %zero : f32
    linalg.yield %a : f32
  } -> tensor<40x2x16xf32>
  util.global.store %y, @keys : tensor<40x2x16xf32>
  return
}
