// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"binary\",\"planes\":2,\"group\":64,\"tables\":\"i6\",\"span\":64,\"method\":\"bcq\"}]"},lowc-lower-lut,cse,lowc-outline-kernels{unit=avx512},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"binary\",\"planes\":2,\"group\":64,\"tables\":\"i6\",\"span\":64,\"method\":\"bcq\"}]"},lowc-lower-lut,cse,lowc-outline-kernels{unit=avx2},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=AVX2
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"binary\",\"planes\":2,\"group\":64,\"tables\":\"i6\",\"span\":64,\"method\":\"bcq\"}]"},lowc-lower-lut,cse,lowc-outline-kernels{unit=avx512vbmi},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=VBMI
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"binary\",\"planes\":2,\"group\":64,\"tables\":\"i6\",\"span\":64,\"method\":\"bcq\"}]"},lowc-lower-lut,cse,lowc-outline-kernels{unit=portable},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=PORTABLE

// Products of one activation share its tables; each weight is a parameter in panels of 64 columns (32
// with AVX2), two words of keys for 16 inputs of a plane and column, and a word for two scales.

// CHECK: remark: fc: look-up kernel (vpshufb, i6), {{[0-9]+}} x 64 sums in registers, + residual
// CHECK: hal.executable.source private @[[K:lookup_b2g64_1xdx200_tables_dx256i6s64v16_t[0-9]+x4g[0-9]+c[0-9]+_e[0-9a-f]+]] {
// CHECK: llvm.call_intrinsic "llvm.x86.avx512.pshuf.b.512"
// CHECK: hal.executable.source private @[[T:tables_dx256i6s64v16]] {
// CHECK-NOT: hal.executable.source
// CHECK-NOT: signs
// CHECK: util.global private @[[SCALES:fc.weight.*p64.scales]] {{.*}} : tensor<1x4x4x2x32xi32>
// CHECK-NEXT: util.global private @[[KEYS:fc.weight.*p64.keys]] {lowc.derivation = {coding = "bcq", columns = 64 : i64, group = 64 : i64, kind = "binary-panels", layout = "{{\[\[}}\22reshape\22,[1,200,256]]]", outputs = 1 : i64, part = "keys", planes = 2 : i64, quads = 64 : i64, rounds = {{[0-9]+}} : i64, source = "fc.weight", terms = 3 : i64}} = {{.*}} : tensor<1x4x32x2x16xi32>
// CHECK-LABEL: func.func @linear
// CHECK-NOT: linalg
// CHECK: %[[R:.*]] = flow.dispatch @[[T]]::@[[T]]
// CHECK-NOT: flow.dispatch @[[T]]
// CHECK: flow.dispatch @[[K]]::@[[K]][{{.*}}](%{{.*}}, %[[R]], %[[KEYS]], %[[SCALES]],
// CHECK-SAME: lowc.bits = 2.500000e+00 : f64
// CHECK: flow.dispatch @[[K]]::@[[K]][{{.*}}](%{{.*}}, %[[R]],

// AVX2: remark: fc: look-up kernel (vpshufb, i6), {{[0-9]+}} x 32 sums in registers
// AVX2: llvm.call_intrinsic "llvm.x86.avx2.pshuf.b"
// AVX2: tensor<1x7x32x2x8xi32>
// AVX2: tensor<1x7x4x2x16xi32>

// VBMI: remark: fc: look-up kernel (vpermb, vpdpbusd, i6), {{[0-9]+}} x 64 sums in registers
// VBMI: llvm.call_intrinsic "llvm.x86.avx512.permvar.qi.512"
// VBMI: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
// VBMI: tensor<1x4x4x2x32xi32>
// VBMI: tensor<1x4x8x2x64xi32>

// PORTABLE: remark: fc: no kernel: kernels of look-ups are for CPUs with AVX2
// PORTABLE-NOT: flow.dispatch
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<200x256xf32>
util.global private @gate.weight = #flow.parameter.named<"model"::"gate.weight"> : tensor<200x256xf32>
func.func @linear(%x: tensor<?x256xf32>, %o: tensor<?x200xf32>)
    -> (tensor<?x200xf32>, tensor<?x200xf32>) {
  %w = util.global.load @fc.weight : tensor<200x256xf32>
  %y = linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %w : tensor<?x256xf32>, tensor<200x256xf32>) outs(%o : tensor<?x200xf32>) {
  ^bb0(%a: f32, %b: f32, %s: f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %s, %p : f32
    linalg.yield %t : f32
  } -> tensor<?x200xf32>
  %v = util.global.load @gate.weight : tensor<200x256xf32>
  %z = linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %v : tensor<?x256xf32>, tensor<200x256xf32>) outs(%o : tensor<?x200xf32>) {
  ^bb0(%a: f32, %b: f32, %s: f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %s, %p : f32
    linalg.yield %t : f32
  } -> tensor<?x200xf32>
  return %y, %z : tensor<?x200xf32>, tensor<?x200xf32>
}
