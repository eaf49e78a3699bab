reset session
set terminal svg size 1040,389 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'accuracy.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$c0 << EOD
-0.6 8.83333333333 8.5 9 6.81669322817 11.3737534886
19.4 93 91.5 94.5 90.6730840823 94.7798096306
EOD
$c1 << EOD
-0.36 8.83333333333 8.5 9 6.81669322817 11.3737534886
19.64 11.5 10 13 9.18863722244 14.3012137556
EOD
$c2 << EOD
-0.12 8.33333333333 8 8.5 6.3780674579 10.8187409599
19.88 11.5 10 13 9.18863722244 14.3012137556
EOD
$c3 << EOD
0.12 8.33333333333 8 8.5 6.3780674579 10.8187409599
20.12 28 26.5 29.5 24.5559963003 31.7239185443
EOD
$c4 << EOD
0.36 8.33333333333 8 8.5 6.3780674579 10.8187409599
20.36 28.5 27 30 25.0336856666 32.239867477
EOD
$c5 << EOD
0.6 8.83333333333 8.5 9 6.81669322817 11.3737534886
20.6 85.5 84 87 82.4567276784 88.0915915496
EOD
$c6 << EOD
-0.48 8.83333333333 8.5 9 6.81669322817 11.3737534886
19.52 78 76.5 79.5 74.51303445 81.1307102932
EOD
$c7 << EOD
-0.24 9 9 9 5.76874488622 13.7765718767
EOD
$c8 << EOD
0 9 9 9 5.76874488622 13.7765718767
EOD
$c9 << EOD
0.24 9 9 9 5.76874488622 13.7765718767
EOD
$c10 << EOD
0.48 9 9 9 5.76874488622 13.7765718767
20.48 71.5 71.5 71.5 64.8846539704 77.3049969954
EOD
set xrange [-0.8:20.8]
set yrange [0:100.466598208]
set grid ytics lt 1 dt solid lc rgb '#cccccc' lw 0.75
set multiplot layout 1,2 margins 0.0730769230769,0.986538461538,0.149100257069,0.817480719794 spacing 0.0442307692308,0.331619537275
set key at graph 0, graph 1.03 left bottom Left reverse vertical maxrows 3 samplen 2.5 spacing 1.1
set xlabel 'training step'
set ylabel 'test accuracy, %'
plot $c6 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c7 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c8 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c9 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c10 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c0 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#000000' notitle, \
     $c1 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#D55E00' notitle, \
     $c2 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#0072B2' notitle, \
     $c3 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#009E73' notitle, \
     $c4 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#CC79A7' notitle, \
     $c5 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#E69F00' notitle, \
     $c0 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#000000' notitle, \
     $c1 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#D55E00' notitle, \
     $c2 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#0072B2' notitle, \
     $c3 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#009E73' notitle, \
     $c4 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#CC79A7' notitle, \
     $c5 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#E69F00' notitle, \
     $c0 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 7 ps 0.8 title 'bf16', \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt (9,4) pt 5 ps 0.8 title 'a-mxfp4', \
     $c2 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt (3,3) pt 9 ps 0.8 title 'a-nvfp4', \
     $c3 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 1 pt 6 ps 0.8 title 'd', \
     $c4 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt (9,4) pt 4 ps 0.8 title 'f', \
     $c5 using 1:2 with linespoints lw 1.6 lc rgb '#E69F00' dt (3,3) pt 8 ps 0.8 title 'g'
set xlabel 'training step'
set ylabel ''
plot $c0 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c1 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c2 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c3 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c4 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c5 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c6 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#000000' notitle, \
     $c6 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#000000' notitle, \
     $c7 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#D55E00' notitle, \
     $c8 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#0072B2' notitle, \
     $c9 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#009E73' notitle, \
     $c10 using 1:2:5:6 with yerrorbars pt -1 lw 1 lc rgb '#CC79A7' notitle, \
     $c6 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 7 ps 0.8 title 'h', \
     $c7 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt (9,4) pt 5 ps 0.8 title 'failing', \
     $c8 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt (3,3) pt 9 ps 0.8 title 'lost', \
     $c9 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 1 pt 6 ps 0.8 title 'waiting', \
     $c10 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt (9,4) pt 4 ps 0.8 title 'elsewhere ‡'
unset multiplot
unset output
reset session
set terminal svg size 1040,389 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'score.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$c0 << EOD
1 10.96 10.66 11.26 10.96 10.96
2 11.32 11.02 11.62 11.32 11.32
3 11.68 11.38 11.98 11.68 11.68
4 12.04 11.74 12.34 12.04 12.04
5 12.4 12.1 12.7 12.4 12.4
6 12.76 12.46 13.06 12.76 12.76
7 13.12 12.82 13.42 13.12 13.12
8 13.48 13.18 13.78 13.48 13.48
9 13.84 13.54 14.14 13.84 13.84
10 14.2 13.9 14.5 14.2 14.2
11 14.56 14.26 14.86 14.56 14.56
12 14.92 14.62 15.22 14.92 14.92
13 15.28 14.98 15.58 15.28 15.28
14 15.64 15.34 15.94 15.64 15.64
15 16 15.7 16.3 16 16
16 16.36 16.06 16.66 16.36 16.36
17 16.72 16.42 17.02 16.72 16.72
18 17.08 16.78 17.38 17.08 17.08
19 17.44 17.14 17.74 17.44 17.44
20 17.8 17.5 18.1 17.8 17.8
EOD
$c1 << EOD
1 10.634 10.334 10.934 10.634 10.634
2 10.668 10.368 10.968 10.668 10.668
3 10.702 10.402 11.002 10.702 10.702
4 10.736 10.436 11.036 10.736 10.736
5 10.77 10.47 11.07 10.77 10.77
6 10.804 10.504 11.104 10.804 10.804
7 10.838 10.538 11.138 10.838 10.838
8 10.872 10.572 11.172 10.872 10.872
9 10.906 10.606 11.206 10.906 10.906
10 10.94 10.64 11.24 10.94 10.94
11 10.974 10.674 11.274 10.974 10.974
12 11.008 10.708 11.308 11.008 11.008
13 11.042 10.742 11.342 11.042 11.042
14 11.076 10.776 11.376 11.076 11.076
15 11.11 10.81 11.41 11.11 11.11
16 11.144 10.844 11.444 11.144 11.144
17 11.178 10.878 11.478 11.178 11.178
18 11.212 10.912 11.512 11.212 11.212
19 11.246 10.946 11.546 11.246 11.246
20 11.28 10.98 11.58 11.28 11.28
EOD
$c2 << EOD
1 10.634 10.334 10.934 10.634 10.634
2 10.668 10.368 10.968 10.668 10.668
3 10.702 10.402 11.002 10.702 10.702
4 10.736 10.436 11.036 10.736 10.736
5 10.77 10.47 11.07 10.77 10.77
6 10.804 10.504 11.104 10.804 10.804
7 10.838 10.538 11.138 10.838 10.838
8 10.872 10.572 11.172 10.872 10.872
9 10.906 10.606 11.206 10.906 10.906
10 10.94 10.64 11.24 10.94 10.94
11 10.974 10.674 11.274 10.974 10.974
12 11.008 10.708 11.308 11.008 11.008
13 11.042 10.742 11.342 11.042 11.042
14 11.076 10.776 11.376 11.076 11.076
15 11.11 10.81 11.41 11.11 11.11
16 11.144 10.844 11.444 11.144 11.144
17 11.178 10.878 11.478 11.178 11.178
18 11.212 10.912 11.512 11.212 11.212
19 11.246 10.946 11.546 11.246 11.246
20 11.28 10.98 11.58 11.28 11.28
EOD
$c3 << EOD
1 10.7 10.4 11 10.7 10.7
2 10.8 10.5 11.1 10.8 10.8
3 10.9 10.6 11.2 10.9 10.9
4 11 10.7 11.3 11 11
5 11.1 10.8 11.4 11.1 11.1
6 11.2 10.9 11.5 11.2 11.2
7 11.3 11 11.6 11.3 11.3
8 11.4 11.1 11.7 11.4 11.4
9 11.5 11.2 11.8 11.5 11.5
10 11.6 11.3 11.9 11.6 11.6
11 11.7 11.4 12 11.7 11.7
12 11.8 11.5 12.1 11.8 11.8
13 11.9 11.6 12.2 11.9 11.9
14 12 11.7 12.3 12 12
15 12.1 11.8 12.4 12.1 12.1
16 12.2 11.9 12.5 12.2 12.2
17 12.3 12 12.6 12.3 12.3
18 12.4 12.1 12.7 12.4 12.4
19 12.5 12.2 12.8 12.5 12.5
20 12.6 12.3 12.9 12.6 12.6
EOD
$c4 << EOD
1 10.702 10.402 11.002 10.702 10.702
2 10.804 10.504 11.104 10.804 10.804
3 10.906 10.606 11.206 10.906 10.906
4 11.008 10.708 11.308 11.008 11.008
5 11.11 10.81 11.41 11.11 11.11
6 11.212 10.912 11.512 11.212 11.212
7 11.314 11.014 11.614 11.314 11.314
8 11.416 11.116 11.716 11.416 11.416
9 11.518 11.218 11.818 11.518 11.518
10 11.62 11.32 11.92 11.62 11.62
11 11.722 11.422 12.022 11.722 11.722
12 11.824 11.524 12.124 11.824 11.824
13 11.926 11.626 12.226 11.926 11.926
14 12.028 11.728 12.328 12.028 12.028
15 12.13 11.83 12.43 12.13 12.13
16 12.232 11.932 12.532 12.232 12.232
17 12.334 12.034 12.634 12.334 12.334
18 12.436 12.136 12.736 12.436 12.436
19 12.538 12.238 12.838 12.538 12.538
20 12.64 12.34 12.94 12.64 12.64
EOD
$c5 << EOD
1 10.93 10.63 11.23 10.93 10.93
2 11.26 10.96 11.56 11.26 11.26
3 11.59 11.29 11.89 11.59 11.59
4 11.92 11.62 12.22 11.92 11.92
5 12.25 11.95 12.55 12.25 12.25
6 12.58 12.28 12.88 12.58 12.58
7 12.91 12.61 13.21 12.91 12.91
8 13.24 12.94 13.54 13.24 13.24
9 13.57 13.27 13.87 13.57 13.57
10 13.9 13.6 14.2 13.9 13.9
11 14.23 13.93 14.53 14.23 14.23
12 14.56 14.26 14.86 14.56 14.56
13 14.89 14.59 15.19 14.89 14.89
14 15.22 14.92 15.52 15.22 15.22
15 15.55 15.25 15.85 15.55 15.55
16 15.88 15.58 16.18 15.88 15.88
17 16.21 15.91 16.51 16.21 16.21
18 16.54 16.24 16.84 16.54 16.54
19 16.87 16.57 17.17 16.87 16.87
20 17.2 16.9 17.5 17.2 17.2
EOD
$c6 << EOD
1 10.9 10.6 11.2 10.9 10.9
2 11.2 10.9 11.5 11.2 11.2
3 11.5 11.2 11.8 11.5 11.5
4 11.8 11.5 12.1 11.8 11.8
5 12.1 11.8 12.4 12.1 12.1
6 12.4 12.1 12.7 12.4 12.4
7 12.7 12.4 13 12.7 12.7
8 13 12.7 13.3 13 13
9 13.3 13 13.6 13.3 13.3
10 13.6 13.3 13.9 13.6 13.6
11 13.9 13.6 14.2 13.9 13.9
12 14.2 13.9 14.5 14.2 14.2
13 14.5 14.2 14.8 14.5 14.5
14 14.8 14.5 15.1 14.8 14.8
15 15.1 14.8 15.4 15.1 15.1
16 15.4 15.1 15.7 15.4 15.4
17 15.7 15.4 16 15.7 15.7
18 16 15.7 16.3 16 16
19 16.3 16 16.6 16.3 16.3
20 16.6 16.3 16.9 16.6 16.6
EOD
$c7 << EOD
1 10.5 10.5 10.5 10.5 10.5
2 10.7 10.7 10.7 10.7 10.7
3 10.9 10.9 10.9 10.9 10.9
4 11.1 11.1 11.1 11.1 11.1
5 11.3 11.3 11.3 11.3 11.3
6 11.5 11.5 11.5 11.5 11.5
7 11.7 11.7 11.7 11.7 11.7
8 11.9 11.9 11.9 11.9 11.9
9 12.1 12.1 12.1 12.1 12.1
10 12.3 12.3 12.3 12.3 12.3
11 12.5 12.5 12.5 12.5 12.5
12 12.7 12.7 12.7 12.7 12.7
13 12.9 12.9 12.9 12.9 12.9
14 13.1 13.1 13.1 13.1 13.1
15 13.3 13.3 13.3 13.3 13.3
16 13.5 13.5 13.5 13.5 13.5
17 13.7 13.7 13.7 13.7 13.7
18 13.9 13.9 13.9 13.9 13.9
19 14.1 14.1 14.1 14.1 14.1
20 14.3 14.3 14.3 14.3 14.3
EOD
$c8 << EOD
1 10.5 10.5 10.5 10.5 10.5
2 10.7 10.7 10.7 10.7 10.7
3 10.9 10.9 10.9 10.9 10.9
4 11.1 11.1 11.1 11.1 11.1
5 11.3 11.3 11.3 11.3 11.3
6 11.5 11.5 11.5 11.5 11.5
7 11.7 11.7 11.7 11.7 11.7
8 11.9 11.9 11.9 11.9 11.9
9 12.1 12.1 12.1 12.1 12.1
10 12.3 12.3 12.3 12.3 12.3
11 12.5 12.5 12.5 12.5 12.5
12 12.7 12.7 12.7 12.7 12.7
13 12.9 12.9 12.9 12.9 12.9
14 13.1 13.1 13.1 13.1 13.1
15 13.3 13.3 13.3 13.3 13.3
16 13.5 13.5 13.5 13.5 13.5
17 13.7 13.7 13.7 13.7 13.7
18 13.9 13.9 13.9 13.9 13.9
19 14.1 14.1 14.1 14.1 14.1
20 14.3 14.3 14.3 14.3 14.3
EOD
$c9 << EOD
1 10.5 10.5 10.5 10.5 10.5
2 10.7 10.7 10.7 10.7 10.7
3 10.9 10.9 10.9 10.9 10.9
4 11.1 11.1 11.1 11.1 11.1
5 11.3 11.3 11.3 11.3 11.3
6 11.5 11.5 11.5 11.5 11.5
7 11.7 11.7 11.7 11.7 11.7
8 11.9 11.9 11.9 11.9 11.9
9 12.1 12.1 12.1 12.1 12.1
10 12.3 12.3 12.3 12.3 12.3
11 12.5 12.5 12.5 12.5 12.5
12 12.7 12.7 12.7 12.7 12.7
13 12.9 12.9 12.9 12.9 12.9
14 13.1 13.1 13.1 13.1 13.1
15 13.3 13.3 13.3 13.3 13.3
16 13.5 13.5 13.5 13.5 13.5
17 13.7 13.7 13.7 13.7 13.7
18 13.9 13.9 13.9 13.9 13.9
19 14.1 14.1 14.1 14.1 14.1
20 14.3 14.3 14.3 14.3 14.3
EOD
$c10 << EOD
1 10.58 10.58 10.58 10.58 10.58
2 10.86 10.86 10.86 10.86 10.86
3 11.14 11.14 11.14 11.14 11.14
4 11.42 11.42 11.42 11.42 11.42
5 11.7 11.7 11.7 11.7 11.7
6 11.98 11.98 11.98 11.98 11.98
7 12.26 12.26 12.26 12.26 12.26
8 12.54 12.54 12.54 12.54 12.54
9 12.82 12.82 12.82 12.82 12.82
10 13.1 13.1 13.1 13.1 13.1
11 13.38 13.38 13.38 13.38 13.38
12 13.66 13.66 13.66 13.66 13.66
13 13.94 13.94 13.94 13.94 13.94
14 14.22 14.22 14.22 14.22 14.22
15 14.5 14.5 14.5 14.5 14.5
16 14.78 14.78 14.78 14.78 14.78
17 15.06 15.06 15.06 15.06 15.06
18 15.34 15.34 15.34 15.34 15.34
19 15.62 15.62 15.62 15.62 15.62
20 15.9 15.9 15.9 15.9 15.9
EOD
set xrange [-0.8:20.8]
set yrange [0:19.186]
set grid ytics lt 1 dt solid lc rgb '#cccccc' lw 0.75
set multiplot layout 1,2 margins 0.0730769230769,0.986538461538,0.149100257069,0.817480719794 spacing 0.0442307692308,0.331619537275
set key at graph 0, graph 1.03 left bottom Left reverse vertical maxrows 3 samplen 2.5 spacing 1.1
set xlabel 'training step'
set ylabel 'mean training score, %'
plot $c6 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c7 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c8 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c9 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c10 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c0 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#000000' notitle, \
     $c1 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#D55E00' notitle, \
     $c2 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#0072B2' notitle, \
     $c3 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#009E73' notitle, \
     $c4 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#CC79A7' notitle, \
     $c5 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#E69F00' notitle, \
     $c0 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 7 ps 0.8 title 'bf16', \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt (9,4) pt 5 ps 0.8 title 'a-mxfp4', \
     $c2 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt (3,3) pt 9 ps 0.8 title 'a-nvfp4', \
     $c3 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 1 pt 6 ps 0.8 title 'd', \
     $c4 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt (9,4) pt 4 ps 0.8 title 'f', \
     $c5 using 1:2 with linespoints lw 1.6 lc rgb '#E69F00' dt (3,3) pt 8 ps 0.8 title 'g'
set xlabel 'training step'
set ylabel ''
plot $c0 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c1 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c2 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c3 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c4 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c5 using 1:2 with lines lw 1 lc rgb '#d5d5d5' notitle, \
     $c6 using 1:3:4 with filledcurves fs transparent solid 0.18 noborder lc rgb '#000000' notitle, \
     $c6 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 7 ps 0.8 title 'h', \
     $c7 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt (9,4) pt 5 ps 0.8 title 'failing', \
     $c8 using 1:2 with linespoints lw 1.6 lc rgb '#0072B2' dt (3,3) pt 9 ps 0.8 title 'lost', \
     $c9 using 1:2 with linespoints lw 1.6 lc rgb '#009E73' dt 1 pt 6 ps 0.8 title 'waiting', \
     $c10 using 1:2 with linespoints lw 1.6 lc rgb '#CC79A7' dt (9,4) pt 4 ps 0.8 title 'elsewhere'
unset multiplot
unset output
reset session
set terminal svg size 960,270 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'differences.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$d << EOD
-81.5 -1 -84.4031547568 -78.1960580793
0 -2 -0.63617010137 0.63617010137
16.5 -3 13.744910047 19.6813239209
0.5 -4 -0.139350951877 1.45962063453
57 -5 53.0064793267 60.9044568591
-7.5 -6 -9.88851564402 -5.65222894214
EOD
set ytics ('a-mxfp4 − bf16' -1, 'a-nvfp4 − a-mxfp4' -2, 'd − a-nvfp4' -3, 'f − d' -4, 'g − f' -5, 'h − g' -6)
set xlabel 'difference in accuracy at the last step, percentage points (95 % interval)'
set xrange [-91.6685353376:68.1698374399]
set yrange [-6.6:-0.4]
set grid xtics lt 1 dt solid lc rgb '#cccccc' lw 0.75
set arrow 1 from first 0, graph 0 to first 0, graph 1 nohead lc rgb '#444444' dt 2 lw 1
unset key
plot $d using 1:2:3:4 with xerrorbars pt 7 ps 0.9 lw 1.6 lc rgb '#0072B2'
unset output
reset session
set terminal svg size 960,440 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'gradient.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$c0 << EOD
0 0 0 0 0 0
1 0 0 0 0 0
2 0 0 0 0 0
3 100 100 100 100 100
EOD
$c1 << EOD
0 100 100 100 100 100
1 100 100 100 100 100
2 100 100 100 100 100
3 100 100 100 100 100
EOD
set xrange [-0.12:3.12]
set yrange [0:106]
set grid ytics lt 1 dt solid lc rgb '#cccccc' lw 0.75
set xtics 1
set key outside right center Left reverse samplen 3 spacing 1.15
set xlabel 'decoder layer'
set ylabel 'adapter tensors with a gradient, %'
plot $c0 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 7 ps 0.8 title 'bf16 and 4 more', \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt (9,4) pt 5 ps 0.8 title 'g and 5 more'
unset output
reset session
set terminal svg size 960,440 noenhanced font 'DejaVu Sans,13' background '#ffffff'
set output 'error.svg'
set encoding utf8
set border 3 lc rgb '#444444'
set tics nomirror
$c0 << EOD
0 14 14 14 14 14
1 15 15 15 15 15
2 16 16 16 16 16
3 17 17 17 17 17
EOD
$c1 << EOD
0 10 10 10 10 10
1 11 11 11 11 11
2 12 12 12 12 12
3 13 13 13 13 13
EOD
set xrange [-0.12:3.12]
set yrange [0:18.02]
set grid ytics lt 1 dt solid lc rgb '#cccccc' lw 0.75
set xtics 1
set key outside right center Left reverse samplen 3 spacing 1.15
set xlabel 'decoder layer'
set ylabel 'relative error of the weights, %'
plot $c0 using 1:2 with linespoints lw 1.6 lc rgb '#000000' dt 1 pt 7 ps 0.8 title 'a-mxfp4, h', \
     $c1 using 1:2 with linespoints lw 1.6 lc rgb '#D55E00' dt (9,4) pt 5 ps 0.8 title 'a-nvfp4 and 7 more'
unset output
